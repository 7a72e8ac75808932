//! Roles of users and in projects, over REST and gRPC.

use reqwest::Method;
use serde_json::{Value, json};
use tonic::Code;
use trainyard_proto::v1::{
    self, project_service_client::ProjectServiceClient, user_service_client::UserServiceClient,
};

use crate::world::{Bearer, World, command};

fn access(tokens: &Value) -> String {
    tokens["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_admin_changes_roles_and_a_deactivated_user_is_refused_at_once() {
    let world = World::start().await;
    let (id, tokens) = world.user("ada@example.org", "standard_engineer").await;
    let token = access(&tokens);
    let path = format!("/users/{id}");
    let found = world
        .call(&token, (Method::POST, "/projects"), json!({"name": "x"}))
        .await;
    assert_eq!(found.0, 403, "{}", found.1);
    let patch = |body: Value| world.call(&world.token, (Method::PATCH, &path), body);
    let (status, user) = patch(json!({"system_role": "advanced_engineer"})).await;
    assert_eq!(
        (status, &user["system_role"]),
        (200, &json!("advanced_engineer"))
    );
    // The token says the old role; what counts is the row.
    let found = world
        .call(&token, (Method::POST, "/projects"), json!({"name": "x"}))
        .await;
    assert_eq!(found.0, 201, "{}", found.1);
    assert_eq!(patch(json!({"system_role": "king"})).await.0, 422);
    let own = world
        .call(
            &token,
            (Method::PATCH, &path),
            json!({"system_role": "admin"}),
        )
        .await;
    assert_eq!(own.0, 403);

    let (status, user) = patch(json!({"is_active": false})).await;
    assert_eq!((status, &user["is_active"]), (200, &json!(false)));
    assert_eq!(
        world
            .call(&token, (Method::GET, "/auth/me"), Value::Null)
            .await
            .0,
        401
    );
    let refused = world.login("ada@example.org", "correct horse").await;
    assert_eq!(refused, (400, json!({"detail": "Inactive user"})));
    assert_eq!(world.login("ada@example.org", "wrong").await.0, 401);
    assert_eq!(patch(json!({"is_active": true})).await.0, 200);
    // An old session does not come back to life.
    assert_eq!(
        world
            .call(&token, (Method::GET, "/auth/me"), Value::Null)
            .await
            .0,
        401
    );
    assert_eq!(world.login("ada@example.org", "correct horse").await.0, 200);
}

#[tokio::test]
async fn the_last_active_admin_stays_one() {
    let world = World::start().await;
    let change = |id: u64, body: Value| {
        let path = format!("/users/{id}");
        let token = world.token.clone();
        let world = &world;
        async move { world.call(&token, (Method::PUT, &path), body).await }
    };
    for body in [
        json!({"system_role": "manager"}),
        json!({"is_active": false}),
    ] {
        let (status, refused) = change(1, body).await;
        assert_eq!(status, 400);
        let words = refused["detail"].as_str().unwrap();
        assert!(words.starts_with("The last active admin"), "{words}");
    }
    let (second, _) = world.user("second@example.org", "admin").await;
    assert_eq!(change(second, json!({"is_active": false})).await.0, 200);
    assert_eq!(change(1, json!({"system_role": "guest"})).await.0, 400);
    assert_eq!(change(second, json!({"is_active": true})).await.0, 200);
    assert_eq!(change(1, json!({"system_role": "guest"})).await.0, 200);
}

/// A project with a founder, a member and a viewer, and somebody who is not in it.
struct Faces {
    world: World,
    tokens: [String; 4],
    path: String,
    members: String,
}

impl Faces {
    async fn found() -> Self {
        let world = World::start().await;
        let mut tokens = [const { String::new() }; 4];
        let names = ["founder", "member", "viewer", "stranger"];
        for (token, name) in tokens.iter_mut().zip(names) {
            let email = format!("{name}@example.org");
            *token = access(&world.user(&email, "advanced_engineer").await.1);
        }
        let body = json!({"name": "Faces", "description": "of people"});
        let founded = world.call(&tokens[0], (Method::POST, "/projects"), body);
        let (status, project) = founded.await;
        assert_eq!(status, 201, "{project}");
        let path = format!("/projects/{}", project["id"]);
        let members = format!("{path}/members");
        for role in ["member", "viewer"] {
            let body = json!({"email": format!("{role}@example.org"), "role": role});
            let added = world.call(&tokens[0], (Method::POST, &members), body);
            let (status, added) = added.await;
            assert_eq!((status, &added["role"]), (201, &json!(role)));
        }
        Self {
            world,
            tokens,
            path,
            members,
        }
    }

    async fn status(&self, token: &str, call: (Method, &str), body: Value) -> u16 {
        self.world.call(token, call, body).await.0
    }
}

#[tokio::test]
async fn members_of_a_project_may_what_their_role_says_and_others_do_not_see_it() {
    let faces = Faces::found().await;
    let [founder, member, viewer, stranger] = &faces.tokens;
    let Faces { path, members, .. } = &faces;
    let admin = &faces.world.token;
    for (token, see, change, submit) in [
        (founder, 200, 200, 200),
        (member, 200, 403, 200),
        (viewer, 200, 403, 403),
        (stranger, 404, 404, 404),
        (admin, 200, 200, 200),
    ] {
        for path in [path, members, &format!("{path}/experiments")] {
            let seen = faces.status(token, (Method::GET, path), Value::Null);
            assert_eq!(seen.await, see, "{path}");
        }
        let body = json!({"description": "of friends"});
        let changed = faces.status(token, (Method::PATCH, path), body);
        assert_eq!(changed.await, change);
        let mut job = command();
        job["project_id"] = json!(1);
        let submitted = faces.status(token, (Method::POST, "/training/jobs"), job);
        assert_eq!(submitted.await, submit);
    }
    for (token, count) in [(viewer, 1), (stranger, 0), (admin, 1)] {
        let call = (Method::GET, "/projects");
        let (_, listed) = faces.world.call(token, call, Value::Null).await;
        assert_eq!(listed.as_array().unwrap().len(), count);
    }
}

#[tokio::test]
async fn members_come_and_go_as_the_administrators_of_the_project_say() {
    let faces = Faces::found().await;
    let [founder, member, viewer, stranger] = &faces.tokens;
    let Faces { path, members, .. } = &faces;
    let again = json!({"name": "Faces"});
    let taken = faces.status(stranger, (Method::POST, "/projects"), again);
    assert_eq!(taken.await, 400);
    let unknown = json!({"email": "nobody@example.org"});
    let added = faces.status(founder, (Method::POST, members), unknown);
    assert_eq!(added.await, 404);
    let of_viewer = (Method::PUT, &*format!("{members}/4"));
    let nothing = faces.status(founder, of_viewer.clone(), json!({}));
    assert_eq!(nothing.await, 422);
    let raised = faces.status(founder, of_viewer, json!({"role": "admin"}));
    assert_eq!(raised.await, 200);
    let name = json!({"name": "Friends"});
    assert_eq!(faces.status(viewer, (Method::PATCH, path), name).await, 200);
    let of_member = (Method::DELETE, &*format!("{members}/3"));
    for status in [200, 404] {
        let removed = faces.status(viewer, of_member.clone(), Value::Null);
        assert_eq!(removed.await, status);
    }
    let seen = faces.status(member, (Method::GET, path), Value::Null);
    assert_eq!(seen.await, 404);
}

#[tokio::test]
async fn only_an_admin_administers_users_at_the_grpc_door_and_a_logout_ends_the_session() {
    let world = World::start().await;
    let (_, tokens) = world.user("ada@example.org", "manager").await;
    let channel = world.channel().await;
    let ada = Bearer(access(&tokens));
    let mut as_ada = UserServiceClient::with_interceptor(channel, ada);

    let denied = as_ada
        .list_users(v1::ListUsersRequest::default())
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let denied = as_ada
        .rotate_keys(v1::RotateKeysRequest::default())
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    as_ada.logout(v1::LogoutRequest::default()).await.unwrap();
    let after = as_ada
        .logout(v1::LogoutRequest::default())
        .await
        .unwrap_err();
    assert_eq!(after.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_guest_only_looks_at_the_grpc_door_too_and_sees_nothing_once_removed() {
    let world = World::start().await;
    let (_, tokens) = world.user("ada@example.org", "manager").await;
    let channel = world.channel().await;
    let admin = Bearer(world.token.clone());
    let mut users = UserServiceClient::with_interceptor(channel.clone(), admin.clone());
    let mut projects = ProjectServiceClient::with_interceptor(channel.clone(), admin);
    let ada = Bearer(access(&tokens));
    let mut projects_of_ada = ProjectServiceClient::with_interceptor(channel, ada);
    let founded = v1::CreateProjectRequest {
        name: "Faces".into(),
        description: String::new(),
    };
    let project = projects_of_ada
        .create_project(founded)
        .await
        .unwrap()
        .into_inner();
    let project_id = project.project.unwrap().project_id;
    let bad = v1::UpdateUserRequest {
        email: "ada@example.org".into(),
        role: Some("king".into()),
        is_active: None,
    };
    let refused = users.update_user(bad.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let guest = v1::UpdateUserRequest {
        role: Some("guest".into()),
        ..bad
    };
    users.update_user(guest).await.unwrap();
    let rename = v1::UpdateProjectRequest {
        project_id,
        name: Some("Mine".into()),
        description: None,
    };
    // A guest only ever looks, whatever the project says.
    let denied = projects_of_ada.update_project(rename).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let seen = projects_of_ada
        .get_project(v1::GetProjectRequest { project_id })
        .await;
    assert_eq!(seen.unwrap().into_inner().members[0].role, "admin");
    let gone = v1::RemoveMemberRequest {
        project_id,
        email: "ada@example.org".into(),
    };
    projects.remove_member(gone).await.unwrap();
    let hidden = projects_of_ada
        .get_project(v1::GetProjectRequest { project_id })
        .await;
    assert_eq!(hidden.unwrap_err().code(), Code::NotFound);
}
