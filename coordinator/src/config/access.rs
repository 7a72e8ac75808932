//! Settings of logins and of an issuer of tokens: the sections `login` and `oidc`.
//!
//! Owns their types and checks. Called by the configuration and by `boot`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use trainyard_core::access::SystemRole;

use super::ConfigError;

/// How often logins may fail, and whom to believe about addresses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Wrong passwords for one account within the window.
    pub failures_per_account: u32,
    /// Wrong passwords from one address within the window.
    pub failures_per_address: u32,
    /// Accounts registered from one address within the window.
    pub registrations_per_address: u32,
    /// The window in seconds.
    pub window_seconds: u32,
    /// Proxies whose X-Forwarded-For is believed: networks, comma-separated.
    pub trusted_proxies: String,
}

impl Login {
    /// The trusted networks.
    #[must_use]
    pub fn trusted(&self) -> Vec<IpNet> {
        parts(&self.trusted_proxies).filter_map(network).collect()
    }
}

/// An issuer whose tokens are taken; off without one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// Its URL, exactly as in its tokens.
    pub issuer: String,
    /// What its tokens must be meant for.
    pub audience: String,
    /// Where its keys are; empty asks its discovery document.
    pub jwks_url: String,
    /// The claim that names roles; empty makes every new user a guest.
    pub role_claim: String,
    /// `value=role`, comma-separated: what values of that claim mean beside our own names.
    pub role_map: String,
    /// Keys are fetched again at most this often, in seconds.
    pub refetch_seconds: u32,
    /// Time-out of a call to the issuer, in seconds.
    pub timeout_seconds: u32,
}

impl OidcConfig {
    /// The role that a value of the claim stands for.
    #[must_use]
    pub fn role(&self, value: &str) -> Option<SystemRole> {
        let mapped = parts(&self.role_map).filter_map(|part| part.split_once('='));
        let found = mapped.filter(|(name, _)| name.trim() == value);
        let role = found.last().map_or(value, |(_, role)| role.trim());
        SystemRole::parse(role)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |words: String| Err(ConfigError::Check(words));
        if self.issuer.is_empty() {
            return Ok(());
        }
        for (key, text) in [("issuer", &self.issuer), ("jwks_url", &self.jwks_url)] {
            let web =
                url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
            if !web && !text.is_empty() {
                return refuse(format!("oidc.{key} must be an http(s) URL, not '{text}'"));
            }
        }
        if self.audience.is_empty() {
            return refuse("oidc.issuer is set and oidc.audience is empty; set it to what the issuer's tokens are meant for".to_owned());
        }
        for part in parts(&self.role_map) {
            let known = part
                .split_once('=')
                .and_then(|(_, role)| SystemRole::parse(role.trim()));
            if known.is_none() {
                return refuse(format!(
                    "oidc.role_map: '{part}' is not value=role; roles are {}",
                    SystemRole::ALL.map(SystemRole::name).join(", ")
                ));
            }
        }
        Ok(())
    }
}

/// The rule of `login.trusted_proxies`.
pub(super) fn networks(text: &str) -> Option<&'static str> {
    let bad = parts(text).any(|part| network(part).is_none());
    bad.then_some("networks such as 10.0.0.0/8, separated by commas")
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// A network, or a single address as one.
fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address)
}
