//! Projects and their members.
//!
//! Owns their rows and that names are unique. Who may do what is `access`. Called by both doors.

use trainyard_core::{
    access::{Permission, ProjectRole},
    account::{normal_email, project_name_problem},
};
use trainyard_proto::status::Kind;

use super::{
    ApiError, Caller, Service,
    access::{MemberRow, ProjectRow, Target, no_project},
};
use crate::{
    clock,
    store::{Change, UserRow},
};

/// Characters of a description at most.
const DESCRIPTION: usize = 2_000;

/// What is said of a project; what is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectText {
    /// Unique, 1 to 100 characters.
    pub name: Option<String>,
    /// At most 2,000 characters.
    pub description: Option<String>,
}

/// A member with the user it is.
#[derive(Clone, Debug)]
pub struct Member {
    /// The user.
    pub user: UserRow,
    /// The role in the project.
    pub role: ProjectRole,
}

/// Whom a call about a member means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who<'a> {
    /// By number.
    Id(u64),
    /// By address.
    Email(&'a str),
}

impl Service {
    /// Founds a project; its founder is its first administrator.
    ///
    /// # Errors
    /// A bad or taken name; a caller who may not.
    pub async fn create_project(
        &self,
        caller: &Caller,
        text: ProjectText,
    ) -> Result<ProjectRow, ApiError> {
        self.require(caller, Permission::CreateProject, Target::Cluster)?;
        let _alone = self.users().alone().await;
        let projects = self.store().documents::<ProjectRow>("")?;
        let mut project = ProjectRow {
            id: projects.last().map_or(1, |last| last.id + 1),
            name: String::new(),
            description: String::new(),
            created_by: caller.user.email.clone(),
            created_at: clock::now(),
        };
        let text = ProjectText {
            name: Some(text.name.unwrap_or_default()),
            ..text
        };
        apply(&mut project, text, &projects)?;
        let founder = MemberRow {
            project_id: project.id,
            user_id: caller.user.id,
            role: ProjectRole::Admin,
        };
        let changes = vec![Change::put(&project), Change::put(&founder)];
        self.store().commit_and_wait(changes).await?;
        Ok(project)
    }

    /// The projects that the caller may see, by number.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn projects(&self, caller: &Caller) -> Result<Vec<ProjectRow>, ApiError> {
        let reader = self.reader(caller);
        self.blocking(move |store| {
            let mut projects = store.documents::<ProjectRow>("")?;
            projects.retain(|project| reader.sees(store, project.id));
            reader.checked(projects)
        })
        .await
    }

    /// One project.
    ///
    /// # Errors
    /// `Project not found`, also when the caller is not in it.
    pub fn project(&self, caller: &Caller, id: i64) -> Result<ProjectRow, ApiError> {
        self.require(caller, Permission::ReadProject, Target::Project(id))?;
        let row = self.store().document::<ProjectRow>(&format!("{id:020}"))?;
        row.ok_or_else(no_project)
    }

    /// Changes name and description.
    ///
    /// # Errors
    /// A bad or taken name; a caller who may not.
    pub async fn update_project(
        &self,
        caller: &Caller,
        id: i64,
        text: ProjectText,
    ) -> Result<ProjectRow, ApiError> {
        self.require(caller, Permission::AdministerProject, Target::Project(id))?;
        let _alone = self.users().alone().await;
        let mut project = self.project(caller, id)?;
        let projects = self.store().documents::<ProjectRow>("")?;
        apply(&mut project, text, &projects)?;
        let change = Change::put(&project);
        self.store().commit_and_wait(vec![change]).await?;
        Ok(project)
    }

    /// The members of a project by number.
    ///
    /// # Errors
    /// As [`Service::project`].
    pub fn members(&self, caller: &Caller, id: i64) -> Result<Vec<Member>, ApiError> {
        self.require(caller, Permission::ReadProject, Target::Project(id))?;
        let rows = self.store().documents::<MemberRow>(&format!("{id:020}/"))?;
        let mut members = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(user) = self.store().user(row.user_id)? {
                members.push(Member {
                    user,
                    role: row.role,
                });
            }
        }
        Ok(members)
    }

    /// Makes somebody a member, or gives a member another role.
    ///
    /// # Errors
    /// No such user; a caller who may not.
    pub async fn set_member(
        &self,
        caller: &Caller,
        id: i64,
        (who, role): (Who<'_>, ProjectRole),
    ) -> Result<Member, ApiError> {
        self.require(caller, Permission::AdministerProject, Target::Project(id))?;
        let user = self.whom(who)?;
        let row = MemberRow {
            project_id: id,
            user_id: user.id,
            role,
        };
        let change = Change::put(&row);
        self.store().commit_and_wait(vec![change]).await?;
        Ok(Member { user, role })
    }

    /// Takes somebody out of a project.
    ///
    /// # Errors
    /// Nobody of the kind is in it; a caller who may not.
    pub async fn remove_member(
        &self,
        caller: &Caller,
        id: i64,
        who: Who<'_>,
    ) -> Result<(), ApiError> {
        self.require(caller, Permission::AdministerProject, Target::Project(id))?;
        let key = MemberRow::key_of(id, self.whom(who)?.id);
        if self.store().document::<MemberRow>(&key)?.is_none() {
            return Err(ApiError::new(Kind::NotFound, "Member not found"));
        }
        let change = Change::remove::<MemberRow>(key);
        self.store().commit_and_wait(vec![change]).await?;
        Ok(())
    }

    fn whom(&self, who: Who<'_>) -> Result<UserRow, ApiError> {
        let found = match who {
            Who::Id(id) => self.store().user(id)?,
            Who::Email(email) => self.store().user_by_email(&normal_email(email))?,
        };
        found.ok_or_else(|| ApiError::new(Kind::NotFound, "User not found"))
    }
}

impl ProjectText {
    /// Whether each text is in order.
    fn check(&self) -> Result<(), ApiError> {
        let name = self.name.as_deref().and_then(project_name_problem);
        let name = name.map_or(Ok(()), |words| Err(ApiError::field("name", words)));
        let text = self.description.as_deref().unwrap_or_default();
        let description = match text.chars().count() > DESCRIPTION {
            true => {
                let words = format!("must have at most {DESCRIPTION} characters");
                Err(ApiError::field("description", words))
            }
            false => Ok(()),
        };
        ApiError::both(name, description).map(|_| ())
    }
}

fn apply(
    project: &mut ProjectRow,
    text: ProjectText,
    projects: &[ProjectRow],
) -> Result<(), ApiError> {
    text.check()?;
    if let Some(name) = text.name {
        let same = |other: &ProjectRow| other.id != project.id && other.name == name;
        if projects.iter().any(same) {
            let words = format!("There is a project '{name}' already; choose another name");
            return Err(ApiError::new(Kind::Conflict, words));
        }
        project.name = name;
    }
    if let Some(description) = text.description {
        project.description = description;
    }
    Ok(())
}
