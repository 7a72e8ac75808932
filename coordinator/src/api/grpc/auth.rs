//! `AuthService`: the tokens of the HTTP API, over gRPC.

use tonic::{Request, Response, Status, async_trait};
use trainyard_proto::v1::{self, auth_service_server::AuthService};

use super::{caller, peer};
use crate::{
    api::{Service, peer::Peer},
    auth::TokenPair,
};

/// The door; all is in the service.
#[derive(Debug)]
pub(super) struct AuthDoor(pub(super) Service);

#[async_trait]
impl AuthService for AuthDoor {
    async fn login(
        &self,
        request: Request<v1::LoginRequest>,
    ) -> Result<Response<v1::LoginResponse>, Status> {
        let Peer(from) = peer(&request);
        let v1::LoginRequest { email, password } = request.into_inner();
        let tokens = Some(wire(self.0.login(&email, &password, from).await?));
        Ok(Response::new(v1::LoginResponse { tokens }))
    }

    async fn refresh(
        &self,
        request: Request<v1::RefreshRequest>,
    ) -> Result<Response<v1::RefreshResponse>, Status> {
        let token = request.into_inner().refresh_token;
        let tokens = Some(wire(self.0.refresh(&token).await?));
        Ok(Response::new(v1::RefreshResponse { tokens }))
    }

    async fn me(
        &self,
        request: Request<v1::MeRequest>,
    ) -> Result<Response<v1::MeResponse>, Status> {
        let user = caller(&self.0, &request)?.user;
        Ok(Response::new(v1::MeResponse {
            user_id: user.id,
            email: user.email,
            role: user.role,
            is_active: user.active,
        }))
    }
}

fn wire(pair: TokenPair) -> v1::TokenPair {
    v1::TokenPair {
        access_token: pair.access,
        refresh_token: pair.refresh,
    }
}
