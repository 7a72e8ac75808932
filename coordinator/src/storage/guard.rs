//! Which addresses a URL that a user gave may lead to (SSRF).
//!
//! Owns the ranges that are refused and the HTTP client that keeps to them: names are resolved here and
//! connected to as resolved, so that a name cannot lead elsewhere a moment later; each redirect is
//! checked like the first URL. Never fetches anything by itself. Used for datasets behind http(s).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::{Attempt, Policy},
};
use thiserror::Error;
use url::{Host, Url};

use super::StorageError;

/// Redirects that are followed.
const HOPS: usize = 5;
/// How long a connection, with the look-up of its name, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Where a URL leads that must not.
#[derive(Debug, Error)]
#[error(
    "'{host}' leads to {address}, which is private; an administrator can allow its network (datasets.allow_private_urls)"
)]
struct Private {
    host: String,
    address: IpAddr,
}

/// What URLs of users may lead to. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Arc<[IpNet]>,
}

impl Guard {
    /// With exceptions for these networks.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self {
            allowed: allowed.into(),
        }
    }

    /// Whether an address may be connected to.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = plain(address);
        !is_private(address) || self.allowed.iter().any(|net| net.contains(&address))
    }

    /// Checks a URL whose host is an address; a name is checked when it is resolved.
    ///
    /// # Errors
    /// Names the host and the way out.
    pub fn check(&self, url: &Url) -> Result<(), StorageError> {
        self.literal(url)
            .map_err(|private| StorageError::Refused(private.to_string()))
    }

    /// Checks a URL and what its name resolves to now, so that a user hears of it at once.
    ///
    /// # Errors
    /// As [`Guard::check`], and when the name cannot be resolved.
    pub async fn look_up(&self, url: &Url) -> Result<(), StorageError> {
        self.check(url)?;
        let Some(Host::Domain(name)) = url.host() else {
            return Ok(());
        };
        let resolved = tokio::time::timeout(CONNECT, resolve(self.clone(), name.to_owned())).await;
        match resolved {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(StorageError::Refused(error.to_string())),
            Err(_) => Err(StorageError::Failed(format!(
                "'{name}' could not be resolved within 5 s"
            ))),
        }
    }

    fn literal(&self, url: &Url) -> Result<(), Private> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        if self.permits(address) {
            return Ok(());
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        Err(Private { host, address })
    }

    /// A client that connects only to what is permitted, without a proxy that would look names up.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn client(&self) -> Result<reqwest::Client, reqwest::Error> {
        let guard = self.clone();
        let policy = Policy::custom(move |attempt: Attempt<'_>| {
            if attempt.previous().len() > HOPS {
                return attempt.error("more than 5 redirects");
            }
            if !matches!(attempt.url().scheme(), "http" | "https") {
                return attempt.error("a redirect to something else than http or https");
            }
            match guard.literal(attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(private) => attempt.error(private),
            }
        });
        reqwest::Client::builder()
            .no_proxy()
            .redirect(policy)
            .dns_resolver(Arc::new(self.clone()))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, name) = (self.clone(), name.as_str().to_owned());
        Box::pin(async move {
            let found = resolve(guard, name).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// All addresses of a name; one that is not permitted spoils the others.
async fn resolve(
    guard: Guard,
    host: String,
) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
    let refused = found.iter().find(|found| !guard.permits(found.ip()));
    match refused {
        Some(found) => Err(Box::new(Private {
            host,
            address: found.ip(),
        })),
        None => Ok(found),
    }
}

/// An IPv4 address that is written as an IPv6 one, as the IPv4 address.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else {
        return address;
    };
    let [a, b, c, d, e, f, g, h] = six.segments();
    let four = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f] {
        // Mapped, translated (NAT64), and 6to4.
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => four(g, h),
        [0x2002, ..] => four(b, c),
        // The old "compatible" form; :: and ::1 are themselves.
        [0, 0, 0, 0, 0, 0] if g != 0 => four(g, h),
        _ => address,
    }
}

/// Everything that is not an address of the open internet.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => private_v4(address),
        IpAddr::V6(address) => private_v6(address),
    }
}

fn private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        // This network, carrier-grade NAT, protocol assignments, benchmarks, reserved and broadcast.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240
}

fn private_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        // Site-local, Teredo, local NAT64, documentation, discard.
        || (a & 0xffc0) == 0xfec0
        || (a == 0x2001 && b == 0)
        || (a == 0x64 && b == 0xff9b)
        || (a == 0x2001 && b == 0xdb8)
        || a == 0x100
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each way to write an address that is not of the open internet.
    const REFUSED: [&str; 27] = [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://0.0.0.0/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://172.31.255.255/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://100.100.100.200/",
        "http://192.0.0.1/",
        "http://198.18.0.1/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://[::1]/",
        "http://[::]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[::127.0.0.1]/",
    ];

    #[test]
    fn no_way_to_write_a_private_address_gets_through() {
        let guard = Guard::default();
        for text in REFUSED {
            let error = guard.check(&text.parse().unwrap());
            let told = error.expect_err(text).to_string();
            assert!(told.contains("datasets.allow_private_urls"), "{told}");
        }
        for text in [
            "http://8.8.8.8/",
            "http://[2606:4700::1111]/",
            "http://172.32.0.1/",
        ] {
            guard.check(&text.parse().unwrap()).expect(text);
        }
    }

    #[test]
    fn an_allowed_network_is_an_exception_and_nothing_beside_it() {
        let guard = Guard::new(vec!["10.7.0.0/16".parse().unwrap()]);
        assert!(guard.permits("10.7.1.2".parse().unwrap()));
        assert!(guard.permits("::ffff:10.7.1.2".parse().unwrap()));
        assert!(!guard.permits("10.8.0.1".parse().unwrap()));
        assert!(!guard.permits("127.0.0.1".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_refused_when_it_is_resolved() {
        let guard = Guard::default();
        let url = Url::parse("http://localhost/x").unwrap();
        let told = guard.look_up(&url).await.unwrap_err().to_string();
        assert!(told.contains("'localhost' leads to "), "{told}");
        let allowed = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap());
        Guard::new(allowed.to_vec()).look_up(&url).await.unwrap();
    }
    /// A server that would be glad of anybody, and what it was asked.
    async fn bait(address: &str, answer: String) -> (SocketAddr, tokio::task::JoinSet<usize>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1_024];
            let read = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            read
        });
        (at, serving)
    }

    #[tokio::test]
    async fn the_client_itself_connects_to_no_name_that_leads_home() {
        let fine = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned();
        let (home, mut unasked) = bait("127.0.0.1", fine).await;
        let inner = format!("http://localhost:{}/", home.port());
        let moved = format!(
            "HTTP/1.1 302 Found\r\nlocation: {inner}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let (outside, mut asked) = bait("127.0.0.2", moved).await;
        // The one address that leads on is allowed, and not where it leads.
        let guard = Guard::new(vec!["127.0.0.2/32".parse().unwrap()]);
        let client = guard.client().unwrap();
        for url in [inner, format!("http://{outside}/")] {
            let error = client.get(&url).send().await.expect_err(&url);
            let told = format!("{error:?}");
            assert!(told.contains("Private"), "{url}: {told}");
        }
        let asked = asked.join_next().await.unwrap().unwrap();
        assert!(asked > 0, "the redirect was followed");
        assert!(unasked.try_join_next().is_none(), "nobody came in");
    }
}
