//! `ProjectService`: projects and who works in them.

use tonic::{Request, Response, Status, async_trait};
use trainyard_core::access::ProjectRole;
use trainyard_proto::{
    convert::timestamp,
    v1::{self, project_service_server::ProjectService},
};

use super::{caller, users::project_role};
use crate::api::{
    Service,
    access::ProjectRow,
    projects::{Member, ProjectText, Who},
};

/// The door; all is in the service.
#[derive(Debug)]
pub(super) struct ProjectDoor(pub(super) Service);

#[async_trait]
impl ProjectService for ProjectDoor {
    async fn list_projects(
        &self,
        request: Request<v1::ListProjectsRequest>,
    ) -> Result<Response<v1::ListProjectsResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let projects = self.0.projects(&caller).await?;
        let projects = projects.into_iter().map(wire).collect();
        Ok(Response::new(v1::ListProjectsResponse { projects }))
    }

    async fn create_project(
        &self,
        request: Request<v1::CreateProjectRequest>,
    ) -> Result<Response<v1::CreateProjectResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let text = ProjectText {
            name: Some(asked.name),
            description: Some(asked.description),
        };
        let project = Some(wire(self.0.create_project(&caller, text).await?));
        Ok(Response::new(v1::CreateProjectResponse { project }))
    }

    async fn get_project(
        &self,
        request: Request<v1::GetProjectRequest>,
    ) -> Result<Response<v1::GetProjectResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let id = request.into_inner().project_id;
        let project = Some(wire(self.0.project(&caller, id)?));
        let members = self.0.members(&caller, id)?.into_iter();
        let members = members.map(member).collect();
        Ok(Response::new(v1::GetProjectResponse { project, members }))
    }

    async fn update_project(
        &self,
        request: Request<v1::UpdateProjectRequest>,
    ) -> Result<Response<v1::UpdateProjectResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let text = ProjectText {
            name: asked.name,
            description: asked.description,
        };
        let project = self.0.update_project(&caller, asked.project_id, text);
        let project = Some(wire(project.await?));
        Ok(Response::new(v1::UpdateProjectResponse { project }))
    }

    async fn set_member(
        &self,
        request: Request<v1::SetMemberRequest>,
    ) -> Result<Response<v1::SetMemberResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let role = project_role(("role", &asked.role), ProjectRole::Member)?;
        let who = (Who::Email(&asked.email), role);
        let set = self.0.set_member(&caller, asked.project_id, who).await?;
        let member = Some(member(set));
        Ok(Response::new(v1::SetMemberResponse { member }))
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let who = Who::Email(&asked.email);
        self.0.remove_member(&caller, asked.project_id, who).await?;
        Ok(Response::new(v1::RemoveMemberResponse {}))
    }
}

fn wire(row: ProjectRow) -> v1::Project {
    v1::Project {
        project_id: row.id,
        name: row.name,
        description: row.description,
        created_by: row.created_by,
        created_at: Some(timestamp(row.created_at)),
    }
}

fn member(member: Member) -> v1::ProjectMember {
    v1::ProjectMember {
        user_id: member.user.id,
        email: member.user.email,
        role: member.role.name().to_owned(),
    }
}
