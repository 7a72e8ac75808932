//! Who may join the cluster as which node: join tokens, the credentials that agents get for them,
//! and the decision. Pure; never draws a secret and never stores one. Called by the coordinator.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::time::Timestamp;

/// The longest life of a join token.
pub const LONGEST_TTL: Duration = Duration::from_secs(30 * 86_400);
/// The most agents that may join with one token.
pub const MOST_USES: u32 = 1_000;

/// A token by which agents join, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Told to everybody.
    pub id: String,
    /// Of the secret, in hexadecimal.
    pub hash: String,
    /// The only node that may join with it, if it is for one.
    pub node: Option<String>,
    /// How many agents may join with it.
    pub uses: u32,
    /// Who has.
    pub joined: Vec<Joiner>,
    /// The e-mail address of who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// No agent joins with it from then on.
    pub expires_at: Timestamp,
}

/// An agent under the name that it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joiner {
    /// The node's name.
    pub node: String,
    /// Drawn once for the agent's data folder.
    pub agent_id: String,
}

/// What a node's agent has joined with, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentCredential {
    /// Whose it is: nobody else has the node's name.
    pub agent: Joiner,
    /// Of the secret, in hexadecimal.
    pub hash: String,
    /// The token by which the agent joined; none for the configured one.
    pub token: Option<String>,
    /// When it joined.
    pub created_at: Timestamp,
    /// When a session was last opened with it, to the hour.
    pub last_used_at: Option<Timestamp>,
    /// It is of no use from then on.
    pub revoked_at: Option<Timestamp>,
}

/// What an agent shows to join.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// A token that somebody made.
    Made(&'a JoinToken),
    /// The configured one, which anyone may use at any time.
    Configured,
}

/// How an agent joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    /// It takes one of the token's uses.
    Anew,
    /// The answer to its first try was lost: it takes none.
    Again,
}

/// Why an agent does not join.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JoinRefusal {
    /// Too late.
    #[error("the join token has expired at {}Z; make a new one with `trainyard node token`", .0.to_naive_iso())]
    Expired(Timestamp),
    /// Others were first.
    #[error("the join token has been used; make a new one with `trainyard node token`")]
    Used,
    /// It is for another node.
    #[error(
        "the join token is for node '{0}'; give the agent that name (--name), or make a token for this one"
    )]
    OtherNode(String),
    /// The name belongs to another agent.
    #[error(
        "node '{0}' belongs to another agent; give this one a name of its own (--name), or free the name with `trainyard node revoke {0}`"
    )]
    Held(String),
    /// The agent was thrown out.
    #[error(
        "the agent of node '{0}' was revoked; it joins only with a token made after that (`trainyard node token`)"
    )]
    Revoked(String),
}

/// Whether `who` may join; `known` are the credentials of its node and of its data folder.
///
/// # Errors
/// The reason, with the way out.
pub fn join(
    now: Timestamp,
    who: &Joiner,
    shown: Shown<'_>,
    known: &[AgentCredential],
) -> Result<Joining, JoinRefusal> {
    if let Shown::Made(token) = shown {
        if now >= token.expires_at {
            return Err(JoinRefusal::Expired(token.expires_at));
        }
        if let Some(node) = token.node.as_ref().filter(|node| **node != who.node) {
            return Err(JoinRefusal::OtherNode(node.clone()));
        }
    }
    let concerns = |held: &&AgentCredential| {
        held.agent.node == who.node || held.agent.agent_id == who.agent_id
    };
    for held in known.iter().filter(concerns) {
        match (held.revoked_at, shown) {
            (None, _) => {}
            // A token from before would bring back at once whoever was thrown out.
            (Some(at), Shown::Made(token)) if token.created_at > at => {}
            (Some(_), _) => return Err(JoinRefusal::Revoked(held.agent.node.clone())),
        }
    }
    let Shown::Made(token) = shown else {
        return Ok(Joining::Anew);
    };
    let live = |held: &&AgentCredential| held.revoked_at.is_none();
    let held = known
        .iter()
        .filter(live)
        .find(|held| held.agent.node == who.node);
    if held.is_some_and(|held| held.agent != *who) {
        return Err(JoinRefusal::Held(who.node.clone()));
    }
    let lost = held
        .is_some_and(|held| held.last_used_at.is_none() && held.token.as_ref() == Some(&token.id));
    if lost && token.joined.contains(who) {
        return Ok(Joining::Again);
    }
    let used = u32::try_from(token.joined.len()).unwrap_or(u32::MAX);
    if used >= token.uses {
        return Err(JoinRefusal::Used);
    }
    Ok(Joining::Anew)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(0).plus(Duration::from_secs(seconds))
    }

    fn who(node: &str, agent_id: &str) -> Joiner {
        Joiner {
            node: node.into(),
            agent_id: agent_id.into(),
        }
    }

    fn token(uses: u32, joined: &[Joiner]) -> JoinToken {
        JoinToken {
            id: "t".into(),
            hash: String::new(),
            node: None,
            uses,
            joined: joined.to_vec(),
            created_by: String::new(),
            created_at: at(10),
            expires_at: at(100),
        }
    }

    fn credential(agent: Joiner) -> AgentCredential {
        AgentCredential {
            agent,
            hash: String::new(),
            token: Some("t".into()),
            created_at: at(20),
            last_used_at: None,
            revoked_at: None,
        }
    }

    #[test]
    fn a_token_is_good_for_its_uses_its_node_and_its_time() {
        let a = who("a", "1");
        let fresh = token(1, &[]);
        assert_eq!(
            join(at(99), &a, Shown::Made(&fresh), &[]),
            Ok(Joining::Anew)
        );
        let late = join(at(100), &a, Shown::Made(&fresh), &[]);
        assert_eq!(late, Err(JoinRefusal::Expired(at(100))));
        let used = token(1, &[who("b", "2")]);
        let refused = join(at(50), &a, Shown::Made(&used), &[]);
        assert_eq!(refused, Err(JoinRefusal::Used));
        let bound = JoinToken {
            node: Some("b".into()),
            ..fresh
        };
        let refused = join(at(50), &a, Shown::Made(&bound), &[]);
        assert_eq!(refused, Err(JoinRefusal::OtherNode("b".into())));
    }

    #[test]
    fn a_lost_answer_is_given_again_until_the_credential_has_been_used() {
        let a = who("a", "1");
        let used = token(1, std::slice::from_ref(&a));
        let mut held = credential(a.clone());
        let again = |held: &AgentCredential| {
            join(at(50), &a, Shown::Made(&used), std::slice::from_ref(held))
        };
        assert_eq!(again(&held), Ok(Joining::Again));
        held.last_used_at = Some(at(30));
        assert_eq!(again(&held), Err(JoinRefusal::Used));
        // Another data folder has not been answered before.
        let other = join(at(50), &who("b", "2"), Shown::Made(&used), &[]);
        assert_eq!(other, Err(JoinRefusal::Used));
    }

    #[test]
    fn a_name_is_one_agents_until_it_is_revoked() {
        let mut held = credential(who("a", "1"));
        let other = who("a", "2");
        let fresh = token(1, &[]);
        let taken = join(
            at(50),
            &other,
            Shown::Made(&fresh),
            std::slice::from_ref(&held),
        );
        assert_eq!(taken, Err(JoinRefusal::Held("a".into())));
        held.revoked_at = Some(at(5));
        let freed = join(at(50), &other, Shown::Made(&fresh), &[held]);
        assert_eq!(freed, Ok(Joining::Anew));
    }

    #[test]
    fn a_revoked_agent_comes_back_only_with_a_newer_token() {
        let mut held = credential(who("a", "1"));
        held.revoked_at = Some(at(40));
        let many = token(9, &[]);
        let known = [held];
        for again in [who("a", "1"), who("a", "2"), who("b", "1")] {
            for shown in [Shown::Made(&many), Shown::Configured] {
                let refused = join(at(50), &again, shown, &known);
                assert_eq!(refused, Err(JoinRefusal::Revoked("a".into())), "{again:?}");
            }
        }
        let newer = JoinToken {
            created_at: at(45),
            ..many
        };
        let back = join(at(50), &who("a", "1"), Shown::Made(&newer), &known);
        assert_eq!(back, Ok(Joining::Anew));
    }
}
