//! Agents: the tokens by which they join, the credentials they get for them, and revoking either.
//!
//! Owns the rows of both and the one check of a credential. Whether an agent may join is decided by
//! `core::join`; secrets are drawn here, told once, and kept as hashes. Called by both doors.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use trainyard_core::{
    access::Permission,
    ids::NodeName,
    join::{
        AgentCredential, JoinRefusal, JoinToken, Joiner, Joining, LONGEST_TTL, MOST_USES, Shown,
        join,
    },
    node::NodeState,
    spec::Violation,
    time::Timestamp,
};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, Service, access::Target};
use crate::{
    actors::{
        ask,
        nodes::{NameTaken, NodesMsg},
    },
    clock,
    config::{Secret, Tls},
    listen::PeerCertificate,
    store::{Change, Document, Store},
};

/// Join tokens that have not expired.
const TOKENS: usize = 1_000;
/// The last use of a credential is written down so often.
const USED_EVERY: Duration = Duration::from_secs(3_600);

/// A join token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct JoinTokenRow(pub JoinToken);

impl Document for JoinTokenRow {
    const KIND: &'static str = "join_token";

    fn key(&self) -> String {
        self.0.id.clone()
    }
}

/// A node's credential as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct AgentRow(pub AgentCredential);

impl Document for AgentRow {
    const KIND: &'static str = "agent";

    fn key(&self) -> String {
        self.0.agent.node.clone()
    }
}

/// What agents must show beside their credential.
#[derive(Clone, Debug)]
pub struct AgentPolicy {
    /// The configured join token, where there is one.
    pub join_token: Option<Secret>,
    /// Who must show a certificate.
    pub tls: Tls,
}

/// A join token to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJoinToken {
    /// How long it is good.
    pub ttl: Duration,
    /// The only node that may join with it.
    pub node: Option<String>,
    /// How many agents may join with it.
    pub uses: u32,
}

impl NewJoinToken {
    /// The life of one for which no other was asked.
    pub const TTL: Duration = Duration::from_secs(3_600);
}

/// Agents and their tokens. A clone is cheap.
#[derive(Clone, Debug)]
pub(super) struct Agents {
    store: Store,
    policy: AgentPolicy,
    /// Held from reading rows to writing them.
    changing: Arc<Mutex<Folders>>,
}

/// Under which names each data folder has joined, so that a join need not look at all credentials. Names that were
/// taken from it since may stand there, too: the rows tell.
#[derive(Debug, Default)]
struct Folders(Option<BTreeMap<String, BTreeSet<String>>>);

impl Folders {
    /// The credentials of the agent's node and of its data folder; from now on it counts among the latter.
    fn known(&mut self, store: &Store, who: &Joiner) -> Result<Vec<AgentCredential>, ApiError> {
        let folders = match &mut self.0 {
            Some(folders) => folders,
            None => {
                let mut folders = BTreeMap::<_, BTreeSet<_>>::new();
                for AgentRow(held) in store.documents::<AgentRow>("")? {
                    let Joiner { node, agent_id } = held.agent;
                    folders.entry(agent_id).or_default().insert(node);
                }
                self.0.insert(folders)
            }
        };
        let names = folders.entry(who.agent_id.clone()).or_default();
        names.insert(who.node.clone());
        let mut known = Vec::new();
        for name in names.iter() {
            let row = store.document::<AgentRow>(name)?;
            known.extend(row.map(|row| row.0));
        }
        Ok(known)
    }
}

impl Agents {
    pub(super) fn new(store: Store, policy: AgentPolicy) -> Self {
        Self {
            store,
            policy,
            changing: Arc::default(),
        }
    }

    /// What agents must show beside their credential.
    pub(super) const fn policy(&self) -> &AgentPolicy {
        &self.policy
    }

    /// The live credential that `text` is.
    fn known(&self, text: &str) -> Result<AgentCredential, ApiError> {
        let refused = |words: &str| ApiError::new(Kind::Unauthenticated, words);
        let unknown = "the agent's credential is not known here; it joins with a token (`trainyard node token`)";
        let mut parts = text.splitn(3, ':');
        let (Some("tya"), Some(node), Some(secret)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(refused(unknown));
        };
        match self.store.document::<AgentRow>(node)? {
            Some(AgentRow(held)) if held.hash == hash(secret) => match held.revoked_at {
                None => Ok(held),
                Some(_) => Err(refused(&JoinRefusal::Revoked(node.to_owned()).to_string())),
            },
            Some(_) | None => Err(refused(unknown)),
        }
    }

    /// Whether a certificate is asked for, and this is not one for the node.
    fn certified(&self, shown: Option<&PeerCertificate>, node: &str) -> Result<(), ApiError> {
        let tls = &self.policy.tls;
        let refused = |words: String| Err(ApiError::new(Kind::Forbidden, words));
        match shown {
            None if tls.agents_must_show() => refused(
                "agents must show a certificate here (tls.require_client_cert); give the agent --tls-cert and --tls-key".to_owned(),
            ),
            Some(shown) if tls.client_cert_names_node && !shown.is_for(node) => refused(format!(
                "the agent's certificate is not for node '{node}' (tls.client_cert_names_node); make one with `trainyard tls init --agent {node}`"
            )),
            None | Some(_) => Ok(()),
        }
    }

    /// The token that `text` is; its secret is compared by hash, so that the time tells nothing.
    fn token(&self, text: &str) -> Result<Option<JoinToken>, ApiError> {
        if let Some(configured) = &self.policy.join_token
            && hash(configured.expose()) == hash(text)
        {
            return Ok(None);
        }
        let mut parts = text.trim().splitn(3, '_');
        if let (Some("tyj"), Some(id), Some(secret)) = (parts.next(), parts.next(), parts.next())
            && let Some(JoinTokenRow(token)) = self.store.document(id)?
            && token.hash == hash(secret)
        {
            return Ok(Some(token));
        }
        let also = match self.policy.join_token {
            Some(_) => ", or take the one in the file join-token of the coordinator's data folder",
            None => "",
        };
        let words = format!(
            "the join token is not one of this coordinator's; make one with `trainyard node token`{also}"
        );
        Err(ApiError::new(Kind::Unauthenticated, words))
    }

    fn live_tokens(&self, now: Timestamp) -> Result<(Vec<JoinToken>, Vec<Change>), ApiError> {
        let all = self.store.documents::<JoinTokenRow>("")?;
        let (live, past): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|row| now < row.0.expires_at);
        let gone = past
            .into_iter()
            .map(|row| Change::remove::<JoinTokenRow>(row.0.id));
        Ok((live.into_iter().map(|row| row.0).collect(), gone.collect()))
    }
}

impl Service {
    /// Makes a join token; its text is told here and never again.
    ///
    /// # Errors
    /// When the caller may not operate the cluster, a value is out of range, or there are too many.
    pub async fn create_join_token(
        &self,
        caller: &Caller,
        new: NewJoinToken,
    ) -> Result<(JoinToken, String), ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        check(&new)?;
        let agents = self.agents();
        let _changing = agents.changing.lock().await;
        let now = clock::now();
        let (live, mut changes) = agents.live_tokens(now)?;
        if live.len() >= TOKENS {
            let words = format!(
                "there are {TOKENS} join tokens already; remove some with `trainyard node revoke-token`"
            );
            return Err(ApiError::new(Kind::Exhausted, words));
        }
        let (id, secret) = (format!("{:016x}", rand::random::<u64>()), secret());
        let token = JoinToken {
            id: id.clone(),
            hash: hash(&secret),
            node: new.node,
            uses: new.uses,
            joined: Vec::new(),
            created_by: caller.user.email.clone(),
            created_at: now,
            expires_at: now.plus(new.ttl),
        };
        changes.push(Change::put(&JoinTokenRow(token.clone())));
        self.store().commit_and_wait(changes).await?;
        tracing::info!(%id, by = %token.created_by, "a join token was made");
        Ok((token, format!("tyj_{id}_{secret}")))
    }

    /// Join tokens that have not expired, without their secrets.
    ///
    /// # Errors
    /// When the caller may not operate the cluster.
    pub fn join_tokens(&self, caller: &Caller) -> Result<Vec<JoinToken>, ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        Ok(self.agents().live_tokens(clock::now())?.0)
    }

    /// No agent joins with this token any more; those that have stay.
    ///
    /// # Errors
    /// When the caller may not operate the cluster, or there is no such token.
    pub async fn revoke_join_token(&self, caller: &Caller, id: &str) -> Result<(), ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        let _changing = self.agents().changing.lock().await;
        if self.store().document::<JoinTokenRow>(id)?.is_none() {
            let words = format!("there is no join token '{id}'");
            return Err(ApiError::new(Kind::NotFound, words));
        }
        let change = Change::remove::<JoinTokenRow>(id);
        self.store().commit_and_wait(vec![change]).await?;
        tracing::info!(%id, by = %caller.user.email, "a join token was revoked");
        Ok(())
    }

    /// Makes a node's credential useless and closes its session. Its jobs are then those of a silent
    /// node.
    ///
    /// # Errors
    /// When the caller may not operate the cluster, or no agent has joined as this node.
    pub async fn revoke_agent(&self, caller: &Caller, node: &str) -> Result<(), ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        {
            let _changing = self.agents().changing.lock().await;
            let Some(AgentRow(mut held)) = self.store().document(node)? else {
                let words = format!("no agent has joined as node '{node}'");
                return Err(ApiError::new(Kind::NotFound, words));
            };
            held.revoked_at = Some(clock::now());
            let change = Change::put(&AgentRow(held));
            self.store().commit_and_wait(vec![change]).await?;
        }
        tracing::warn!(%node, by = %caller.user.email, "an agent was revoked");
        self.cut(node, Some(&caller.user.email)).await
    }

    /// An agent joins; answers with a credential of its own, told here and never again.
    ///
    /// # Errors
    /// When the token is not good, or the name is another agent's.
    pub(super) async fn join(
        &self,
        token: &str,
        who: Joiner,
        certificate: Option<&PeerCertificate>,
    ) -> Result<Result<String, NameTaken>, ApiError> {
        let agents = self.agents();
        agents.certified(certificate, &who.node)?;
        let mut folders = agents.changing.lock().await;
        let now = clock::now();
        let mut made = agents.token(token)?;
        let known = folders.known(&agents.store, &who)?;
        let shown = made.as_ref().map_or(Shown::Configured, Shown::Made);
        let joining = join(now, &who, shown, &known).map_err(refusal)?;
        if made.is_none() && self.is_anothers(&who).await? {
            return Ok(Err(NameTaken(NodeName(who.node))));
        }
        let secret = secret();
        let held = AgentCredential {
            agent: who.clone(),
            hash: hash(&secret),
            token: made.as_ref().map(|token| token.id.clone()),
            created_at: now,
            last_used_at: None,
            revoked_at: None,
        };
        let mut changes = vec![Change::put(&AgentRow(held))];
        if let (Some(token), Joining::Anew) = (&mut made, joining) {
            token.joined.push(who.clone());
            changes.push(Change::put(&JoinTokenRow(token.clone())));
        }
        agents.store.commit_and_wait(changes).await?;
        tracing::info!(node = %who.node, ?joining, "an agent has joined");
        Ok(Ok(format!("tya:{}:{secret}", who.node)))
    }

    /// The agent whose credential this is: the one check behind every call of agents.
    ///
    /// # Errors
    /// When it is unknown or revoked, or a certificate is asked for and not shown.
    pub(super) fn agent(
        &self,
        credential: &str,
        certificate: Option<&PeerCertificate>,
    ) -> Result<AgentCredential, ApiError> {
        let held = self.agents().known(credential)?;
        self.agents().certified(certificate, &held.agent.node)?;
        Ok(held)
    }

    /// Writes down that a session was opened with a credential; false when it was revoked meanwhile.
    pub(super) async fn agent_seen(&self, held: &AgentCredential) -> Result<bool, ApiError> {
        let agents = self.agents();
        let current = |store: &Store| -> Result<Option<AgentCredential>, ApiError> {
            let row = store.document::<AgentRow>(&held.agent.node)?;
            let current = row.map(|row| row.0);
            Ok(current.filter(|now| now.hash == held.hash && now.revoked_at.is_none()))
        };
        let now = clock::now();
        let recent = held
            .last_used_at
            .is_some_and(|at| now.since(at) < USED_EVERY);
        if recent {
            return Ok(current(&agents.store)?.is_some());
        }
        let _changing = agents.changing.lock().await;
        let Some(mut held) = current(&agents.store)? else {
            return Ok(false);
        };
        held.last_used_at = Some(now);
        let change = Change::put(&AgentRow(held));
        agents.store.commit_and_wait(vec![change]).await?;
        Ok(true)
    }

    /// Closes a node's session, if it has one, for who has revoked its agent, if that is not noted yet.
    pub(super) async fn cut(&self, node: &str, by: Option<&str>) -> Result<(), ApiError> {
        let (node, by) = (NodeName(node.to_owned()), by.map(str::to_owned));
        let question = |reply| NodesMsg::Disconnect(node, by, reply);
        Ok(ask(&self.tree().nodes, question).await?)
    }

    /// Whether another agent is connected under the name.
    async fn is_anothers(&self, who: &Joiner) -> Result<bool, ApiError> {
        let question = |reply| NodesMsg::Find(NodeName(who.node.clone()), reply);
        let node = ask(&self.tree().nodes, question).await?;
        Ok(node.is_some_and(|node| {
            node.row.agent_id != who.agent_id && node.state == NodeState::Ready
        }))
    }
}

fn check(new: &NewJoinToken) -> Result<(), ApiError> {
    let mut violations = Vec::new();
    let mut wrong = |field: &str, message: String| {
        violations.push(Violation {
            field: field.to_owned(),
            message,
        });
    };
    if new.ttl < Duration::from_secs(1) || new.ttl > LONGEST_TTL {
        wrong("ttl", "give 1 second to 30 days".to_owned());
    }
    if !(1..=MOST_USES).contains(&new.uses) {
        wrong("uses", format!("is {}; give 1 to {MOST_USES}", new.uses));
    }
    if let Some(words) = new.node.as_deref().and_then(bad_name) {
        wrong("node_name", words);
    }
    match violations.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid(violations)),
    }
}

/// What is wrong with the name of a node.
pub(super) fn bad_name(name: &str) -> Option<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let bad = name.is_empty() || name.len() > 253 || !name.chars().all(fine);
    bad.then(|| {
        format!("'{name}' is no name for a node; use letters, digits, '.', '_' and '-' (--name)")
    })
}

fn refusal(why: JoinRefusal) -> ApiError {
    let kind = match why {
        JoinRefusal::Expired(_) | JoinRefusal::Used => Kind::Unauthenticated,
        JoinRefusal::OtherNode(_) | JoinRefusal::Held(_) | JoinRefusal::Revoked(_) => {
            Kind::Forbidden
        }
    };
    ApiError::new(kind, why.to_string())
}

/// 256 random bits.
fn secret() -> String {
    let (high, low) = rand::random::<(u128, u128)>();
    format!("{high:032x}{low:032x}")
}

fn hash(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}
