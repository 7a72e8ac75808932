//! How an agent comes to its shims: forked from one that is loaded already (see [`super::zygote`]), or started where
//! there is none.
//!
//! Owns the zygote's end that is the agent's: what is asked of it and who waits for which answer. It never reads a
//! task's folder. A zygote that has died is replaced before the next launch; whom it left without an answer is told so,
//! and starts its shim itself. The launcher asks.

use super::cgroup;
use super::files::Hello;
use super::zygote::{LONGEST_WORD, Order, Word, ZYGOTE};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// How long a zygote may take to kill a shim, before it is taken to be stuck itself.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How shims are started, and what they are forked from.
#[derive(Debug)]
pub struct Shims {
    /// Program and leading arguments.
    command: Vec<String>,
    /// The folder of the control group that they start in.
    group: Option<PathBuf>,
    zygote: Mutex<Option<Arc<Zygote>>>,
    readers: TaskTracker,
}

/// What became of an order to begin.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The shim has said this.
    Said(Hello),
    /// The shim has ended without a word.
    Ended,
    /// Nothing was said in time; the shim was killed.
    Late,
    /// The zygote has ended, and with it or before it the shim, if there was one.
    Lost,
}

#[derive(Debug)]
struct Zygote {
    orders: tokio::sync::Mutex<ChildStdin>,
    pid: Option<u32>,
    last: AtomicU64,
    /// It takes no orders, whoever still has something to say.
    retired: AtomicBool,
    waiting: Arc<Waiting>,
}

/// Who waits for a word; `None` when there will be none any more.
#[derive(Debug)]
struct Waiting(Mutex<Option<BTreeMap<u64, oneshot::Sender<Begun>>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<u64, oneshot::Sender<Begun>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self) -> bool {
        self.lock().is_none()
    }

    /// Nobody waits for the word of a shim that has said its own.
    fn tell(&self, number: u64, begun: Begun) {
        let waits = self.lock().as_mut().and_then(|all| all.remove(&number));
        if let Some(waits) = waits {
            drop(waits.send(begun));
        }
    }
}

impl Shims {
    /// Shims that `command` (program and leading arguments) starts. There is no zygote yet.
    #[must_use]
    pub fn new(command: Vec<String>) -> Self {
        Self {
            command,
            group: cgroup::own(),
            zygote: Mutex::default(),
            readers: TaskTracker::new(),
        }
    }

    /// Starts a zygote, unless one lives. A failure only shows in the log: the next launch starts its own shim, and
    /// tells its user.
    pub fn keep_ready(&self) {
        let mut zygote = self.zygote.lock().unwrap_or_else(PoisonError::into_inner);
        if zygote.as_ref().is_some_and(|zygote| zygote.serves()) {
            return;
        }
        match self.start(ZYGOTE, Stdio::piped(), Stdio::null()) {
            Ok(child) => *zygote = self.attend(child),
            Err(error) => tracing::warn!(%error, "shims are started one by one"),
        }
    }

    /// The process that shims are forked from now.
    pub fn zygote(&self) -> Option<i32> {
        let zygote = self.zygote.lock().unwrap_or_else(PoisonError::into_inner);
        let zygote = zygote.as_ref().filter(|zygote| zygote.serves())?;
        i32::try_from(zygote.pid?).ok()
    }

    /// Has a shim for `task_dir` forked and waits for its word, at most `limit`. `None` where there is no zygote.
    pub(crate) async fn begin(&self, task_dir: &Path, limit: Duration) -> Option<Begun> {
        let zygote = {
            let zygote = self.zygote.lock().unwrap_or_else(PoisonError::into_inner);
            zygote.clone().filter(|zygote| zygote.serves())?
        };
        zygote.begin(task_dir, limit).await
    }

    /// The program that a shim is.
    pub(crate) fn program(&self) -> String {
        self.command.first().cloned().unwrap_or_default()
    }

    /// Starts one with `argument`; it outlives this process.
    pub(crate) fn start(
        &self,
        argument: impl AsRef<std::ffi::OsStr>,
        stdin: Stdio,
        stderr: Stdio,
    ) -> io::Result<Child> {
        let empty = || io::Error::new(io::ErrorKind::InvalidInput, "its command is empty");
        let (program, arguments) = self.command.split_first().ok_or_else(empty)?;
        let group = self.group.iter().map(|group| (cgroup::OWN, group));
        Command::new(program)
            .envs(group)
            .args(arguments)
            .arg(argument)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(false)
            .spawn()
    }

    /// Hears the zygote until it and the last shim that has something to say have ended.
    fn attend(&self, mut child: Child) -> Option<Arc<Zygote>> {
        let (orders, words) = (child.stdin.take()?, child.stdout.take()?);
        let waiting = Arc::new(Waiting(Mutex::new(Some(BTreeMap::new()))));
        let heard = Arc::clone(&waiting);
        let pid = child.id();
        // Ends with the zygote, whose input is closed with these shims.
        self.readers.spawn(async move {
            if let Err(error) = hear(words, &heard).await {
                tracing::warn!(%error, "the words of shims cannot be read");
            }
            // Whoever waits is told by this that nobody will answer.
            drop(heard.lock().take());
            match child.wait().await {
                Ok(status) => {
                    tracing::debug!(%status, "the process that shims are forked from has ended")
                }
                Err(error) => tracing::warn!(%error, "the process that shims are forked from"),
            }
        });
        Some(Arc::new(Zygote {
            orders: tokio::sync::Mutex::new(orders),
            pid,
            last: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            waiting,
        }))
    }
}

impl Zygote {
    fn serves(&self) -> bool {
        !self.retired.load(Ordering::SeqCst) && !self.waiting.over()
    }

    async fn begin(&self, task_dir: &Path, limit: Duration) -> Option<Begun> {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let order = Order::Begin(number, task_dir.to_owned());
        if order.encode().len() > LONGEST_WORD {
            return None;
        }
        let (sender, mut answer) = oneshot::channel();
        drop(self.waiting.lock().as_mut()?.insert(number, sender));
        let asking = async {
            if self.order(&order).await.is_err() {
                self.retired.store(true, Ordering::SeqCst);
                return Begun::Lost;
            }
            (&mut answer).await.unwrap_or(Begun::Lost)
        };
        Some(match tokio::time::timeout(limit, asking).await {
            Ok(begun) => begun,
            Err(_) => self.kill(number, answer).await,
        })
    }

    /// Has a shim killed that takes too long. A zygote that does not do it is stuck and is killed itself: what it has
    /// forked goes on.
    async fn kill(&self, number: u64, answer: oneshot::Receiver<Begun>) -> Begun {
        let order = Order::Kill(number);
        let asking = async {
            self.order(&order).await.ok();
            answer.await
        };
        match tokio::time::timeout(KILL_LIMIT, asking).await {
            // It may have said hello just now.
            Ok(Ok(said @ Begun::Said(_))) => said,
            Ok(_) => Begun::Late,
            Err(_) => {
                tracing::error!(
                    "the process that shims are forked from does not answer; it is replaced"
                );
                self.retired.store(true, Ordering::SeqCst);
                let pid = self.pid.and_then(|pid| i32::try_from(pid).ok());
                if let Some(pid) = pid.filter(|_| !self.waiting.over()) {
                    // Not reaped yet: its words have not ended.
                    let pid = nix::unistd::Pid::from_raw(pid);
                    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
                }
                Begun::Late
            }
        }
    }

    /// Written whole or not at all, since it is short, also when the caller is dropped meanwhile.
    async fn order(&self, order: &Order) -> io::Result<()> {
        let mut orders = self.orders.lock().await;
        orders.write_all(&order.encode()).await?;
        orders.flush().await
    }
}

/// Hands each word to whom it is for.
async fn hear(mut words: ChildStdout, waiting: &Waiting) -> io::Result<()> {
    let mut heard = Vec::with_capacity(2 * LONGEST_WORD);
    loop {
        heard.reserve(LONGEST_WORD);
        if words.read_buf(&mut heard).await? == 0 {
            return Ok(());
        }
        let whole = heard.iter().rposition(|&byte| byte == b'\n');
        let whole = whole.map_or(0, |end| end + 1);
        for line in heard
            .get(..whole)
            .unwrap_or_default()
            .split(|&byte| byte == b'\n')
        {
            match serde_json::from_slice(line) {
                Ok(Word::Hello(number, hello)) => waiting.tell(number, Begun::Said(hello)),
                Ok(Word::Ended(number)) => waiting.tell(number, Begun::Ended),
                Err(_) if line.is_empty() => {}
                Err(error) => tracing::warn!(%error, "a word of a shim is none"),
            }
        }
        heard.drain(..whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(script: &str) -> Shims {
        let shims = Shims::new(["sh", "-c", script].map(str::to_owned).to_vec());
        shims.keep_ready();
        shims
    }

    async fn begin(shims: &Shims, limit: Duration) -> Option<Begun> {
        shims.begin(Path::new("/nowhere"), limit).await
    }

    /// No condition takes longer, however busy the machine is.
    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn an_answer_is_for_whoever_asked_and_none_is_told_when_there_will_be_none() {
        let ended =
            r#"head -c 1 > /dev/null; echo '{"Ended":7}'; echo no word; echo '{"Ended":0}'"#;
        let shims = of(ended);
        let begun = begin(&shims, LONG).await;
        assert!(matches!(begun, Some(Begun::Ended)), "{begun:?}");
        let shims = of("head -c 1 > /dev/null");
        let begun = begin(&shims, LONG).await;
        // Also by one that had ended before it was asked.
        assert!(matches!(begun, Some(Begun::Lost) | None), "{begun:?}");
        assert!(
            Shims::new(Vec::new())
                .begin(Path::new("/"), LONG)
                .await
                .is_none()
        );
    }

    #[tokio::test]
    async fn a_stuck_zygote_is_replaced() {
        let shims = of("exec sleep 1000");
        let stuck = shims.zygote().unwrap();
        let begun = begin(&shims, Duration::from_millis(1)).await;
        assert!(matches!(begun, Some(Begun::Late)), "{begun:?}");
        let replaced = async {
            loop {
                shims.keep_ready();
                match shims.zygote() {
                    Some(new) if new != stuck => return,
                    Some(_) | None => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(LONG, replaced).await.unwrap();
    }
}
