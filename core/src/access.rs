//! Who may do what: system roles, roles in projects, and the one table that joins them.
//!
//! Pure. Never knows a token or a row. Called by the coordinator's service for every request of both
//! doors.

use serde::{Deserialize, Serialize};

/// A user's role in the whole cluster, under the old platform's names.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum SystemRole {
    /// Looks at the projects that invited them.
    #[default]
    Guest,
    /// Trains: in the projects that invited them, and jobs of their own.
    StandardEngineer,
    /// As above, and founds projects and registers datasets.
    AdvancedEngineer,
    /// Administers every project; does not touch nodes, users or keys.
    Manager,
    /// Everything.
    Admin,
}

/// A user's role in one project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProjectRole {
    /// Reads jobs, logs, metrics and checkpoints.
    Viewer,
    /// Submits jobs, and cancels and restarts them.
    Member,
    /// Changes the project and its members.
    Admin,
}

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Read a job, or anything that belongs to it.
    ReadJob,
    /// Submit a job.
    SubmitJob,
    /// Cancel, restart or start a job, or store a checkpoint of it.
    ChangeJob,
    /// See a project and its members.
    ReadProject,
    /// Change a project and its members.
    AdministerProject,
    /// Found a project.
    CreateProject,
    /// See which datasets and snapshots there are.
    ReadDatasets,
    /// Register and remove datasets, delete snapshots.
    RegisterDatasets,
    /// See nodes.
    ReadNodes,
    /// Drain and resume nodes, plan maintenance, make join tokens, revoke agents; see what trackers do.
    Operate,
    /// Users, their roles, service accounts, keys.
    AdministerUsers,
}

/// How a caller stands to what the call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The caller's role in the cluster.
    pub system: SystemRole,
    /// The caller's role in the project in question, if it is about one.
    pub project: Option<ProjectRole>,
    /// The thing is the caller's own and belongs to no project.
    pub own: bool,
}

impl SystemRole {
    /// All roles, least first.
    pub const ALL: [Self; 5] = [
        Self::Guest,
        Self::StandardEngineer,
        Self::AdvancedEngineer,
        Self::Manager,
        Self::Admin,
    ];

    /// The name in tokens and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::StandardEngineer => "standard_engineer",
            Self::AdvancedEngineer => "advanced_engineer",
            Self::Manager => "manager",
            Self::Admin => "admin",
        }
    }

    /// Reads a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl ProjectRole {
    /// All roles, least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Member, Self::Admin];

    /// The name in requests and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }

    /// Reads a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl Standing {
    /// Whether such a caller may. A guest only ever looks.
    #[must_use]
    pub fn allows(self, wanted: Permission) -> bool {
        let engineer = self.system >= SystemRole::StandardEngineer;
        let within = |least: ProjectRole| {
            self.system >= SystemRole::Manager || self.project.is_some_and(|role| role >= least)
        };
        match wanted {
            Permission::ReadJob => self.own || within(ProjectRole::Viewer),
            Permission::SubmitJob | Permission::ChangeJob => {
                engineer && (self.own || within(ProjectRole::Member))
            }
            Permission::ReadProject => within(ProjectRole::Viewer),
            Permission::AdministerProject => engineer && within(ProjectRole::Admin),
            Permission::CreateProject | Permission::RegisterDatasets => {
                self.system >= SystemRole::AdvancedEngineer
            }
            Permission::ReadDatasets | Permission::ReadNodes => engineer,
            Permission::Operate | Permission::AdministerUsers => self.system == SystemRole::Admin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(system: SystemRole, project: Option<ProjectRole>, own: bool) -> Standing {
        Standing {
            system,
            project,
            own,
        }
    }

    #[test]
    fn a_guest_never_changes_anything_whatever_the_project_says() {
        let guest = standing(SystemRole::Guest, Some(ProjectRole::Admin), true);
        assert!(guest.allows(Permission::ReadJob));
        for wanted in [
            Permission::SubmitJob,
            Permission::ChangeJob,
            Permission::AdministerProject,
            Permission::CreateProject,
            Permission::Operate,
            Permission::AdministerUsers,
        ] {
            assert!(!guest.allows(wanted), "{wanted:?}");
        }
    }

    #[test]
    fn an_engineer_needs_the_project_unless_the_job_is_their_own() {
        let role = SystemRole::AdvancedEngineer;
        let stranger = standing(role, None, false);
        assert!(!stranger.allows(Permission::ReadJob));
        let viewer = standing(role, Some(ProjectRole::Viewer), false);
        assert!(viewer.allows(Permission::ReadJob));
        assert!(!viewer.allows(Permission::ChangeJob));
        let member = standing(role, Some(ProjectRole::Member), false);
        assert!(member.allows(Permission::ChangeJob));
        assert!(!member.allows(Permission::AdministerProject));
        assert!(standing(role, None, true).allows(Permission::ChangeJob));
    }

    #[test]
    fn only_an_admin_touches_nodes_and_users() {
        for role in SystemRole::ALL {
            let allowed = standing(role, Some(ProjectRole::Admin), true);
            let admin = role == SystemRole::Admin;
            assert_eq!(allowed.allows(Permission::Operate), admin, "{role:?}");
            assert_eq!(allowed.allows(Permission::AdministerUsers), admin);
        }
    }

    #[test]
    fn names_are_read_back() {
        for role in SystemRole::ALL {
            assert_eq!(SystemRole::parse(role.name()), Some(role));
        }
        for role in ProjectRole::ALL {
            assert_eq!(ProjectRole::parse(role.name()), Some(role));
        }
    }
}
