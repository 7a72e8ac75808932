//! The document that describes this door: `/api/v1/openapi.json`, shown at `/docs`.
//!
//! Owns what all calls share: the title, the ways to show who calls, and the refusals that any call
//! may get. Paths and bodies come from the handlers and their types. Called by the door's router.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::{
    IntoResponses, Modify, ToSchema,
    openapi::{
        ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, Schema,
        security::{Flow, HttpAuthScheme, HttpBuilder, OAuth2, Password, Scopes, SecurityScheme},
    },
};

/// The parts that no handler owns.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(
    info(
        title = "Trainyard",
        description = "Training jobs on a cluster: submit, watch, stop; what trainers report; users and projects. \
            Every error is `{\"detail\": …}`: a text, or with 422 the list of all fields that are wrong.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Detail, WrongFields, WrongField)),
    modifiers(&Schemes)
)]
pub(super) struct Document;

/// An error in words.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Detail {
    /// What is wrong and the way out.
    pub(super) detail: String,
}

/// Every field of a request that is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WrongFields {
    /// One entry a field.
    pub(super) detail: Vec<WrongField>,
}

/// One field that is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WrongField {
    /// Which rule was broken, such as `missing` or `int_parsing`.
    #[serde(rename = "type")]
    kind: String,
    /// Where: `body`, `path` or `query`, then names and indices.
    loc: Vec<Value>,
    /// What is expected.
    msg: String,
    /// What was there.
    input: Value,
    /// The rule's own numbers and words.
    #[schema(value_type = Object)]
    #[serde(skip_serializing_if = "Option::is_none")]
    ctx: Option<Value>,
}

/// How a caller shows who it is.
#[derive(Debug)]
struct Schemes;

impl Modify for Schemes {
    fn modify(&self, openapi: &mut OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let login = Flow::Password(Password::with_refresh_url(
            "/api/v1/auth/login",
            Scopes::new(),
            "/api/v1/auth/refresh",
        ));
        let bearer = |format: &str, words: &str| {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
            let scheme = scheme.bearer_format(format).description(Some(words));
            SecurityScheme::Http(scheme.build())
        };
        components.add_security_scheme("login", SecurityScheme::OAuth2(OAuth2::new([login])));
        components.add_security_scheme(
            "token",
            bearer(
                "JWT",
                "The access token of a user, as `/auth/login` answers it",
            ),
        );
        components.add_security_scheme(
            "attempt",
            bearer(
                "opaque",
                "The secret of a job's running attempt; its trainer finds it in the environment",
            ),
        );
    }
}

/// What anyone may be answered who shows no token and looks for something.
#[derive(Debug)]
pub(super) enum Finding {}
/// What anyone may be answered who asks for one thing that is always there.
#[derive(Debug)]
pub(super) enum Plain {}
/// What anyone may be answered who shows no token.
#[derive(Debug)]
pub(super) enum Open {}
/// What any caller with a token may be answered.
#[derive(Debug)]
pub(super) enum Signed {}
/// As [`Signed`], for a call with parameters.
#[derive(Debug)]
pub(super) enum Asking {}
/// As [`Asking`], for a call that goes through all jobs, of which few are made at once.
#[derive(Debug)]
pub(super) enum Counting {}
/// As [`Asking`], for a call about one thing: a job, a project.
#[derive(Debug)]
pub(super) enum About {}
/// As [`About`], for a call that a state may not allow.
#[derive(Debug)]
pub(super) enum Acting {}
/// As [`Acting`], for a call that needs room for one more job.
#[derive(Debug)]
pub(super) enum Again {}
/// As [`Acting`], for a call with a body.
#[derive(Debug)]
pub(super) enum Sending {}
/// What a trainer may be answered.
#[derive(Debug)]
pub(super) enum Reporting {}

macro_rules! refusals {
    ($($set:ident: $($status:literal)*;)*) => { $(
        impl IntoResponses for $set {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                refusals(&[$($status),*])
            }
        }
    )* };
}

refusals! {
    Finding: 404 422 500 503;
    Open: 422 500 503;
    Plain: 500 503;
    Signed: 401 403 500 503;
    Asking: 401 403 422 500 503;
    Counting: 401 403 422 429 500 503;
    About: 401 403 404 422 500 503;
    Acting: 400 401 403 404 422 500 503;
    Again: 400 401 403 404 422 429 500 503;
    Sending: 400 401 403 404 409 413 422 429 500 503;
    Reporting: 400 404 413 422 429 500 503;
}

fn refusals(statuses: &[u16]) -> BTreeMap<String, RefOr<Response>> {
    let refusal = |status: &u16| {
        let (words, schema) = match status {
            400 => (
                "It cannot be done so, or not in the present state",
                "Detail",
            ),
            401 => ("Nobody knows who calls", "Detail"),
            403 => ("The caller may not", "Detail"),
            404 => (
                "There is no such thing, or none that the caller may see",
                "Detail",
            ),
            409 => (
                "There is such a thing already, or the key of a submission stands for another one",
                "Detail",
            ),
            413 => ("The body is too large", "Detail"),
            422 => ("Fields are wrong: every one of them", "WrongFields"),
            429 => ("There is no room for more at present", "Detail"),
            500 => ("A fault of the coordinator; its log says more", "Detail"),
            _ => ("Try again in a moment", "Detail"),
        };
        let schema = Some(Ref::from_schema_name(schema));
        let content = ContentBuilder::new().schema(schema).build();
        let response = ResponseBuilder::new().description(words);
        let response = response.content("application/json", content).build();
        (status.to_string(), response.into())
    };
    statuses.iter().map(refusal).collect()
}

/// What only the whole document can say: answers always show every key of theirs, and a page has at
/// most `rows` rows, one of points or lines `series`.
pub(super) fn finish(document: &mut OpenApi, (rows, series): (usize, usize)) {
    let schemas = document.components.iter_mut();
    let schemas = schemas.flat_map(|components| components.schemas.iter_mut());
    for (name, schema) in schemas {
        let asked = name.ends_with("Request") || name == "WrongField";
        if let (false, RefOr::T(Schema::Object(object))) = (asked, schema) {
            object.required = object.properties.keys().cloned().collect();
        }
    }
    for (path, item) in &mut document.paths.paths {
        let of_series = ["/metrics", "/logs"].iter().any(|end| path.ends_with(end));
        let most = if of_series { series } else { rows };
        let parameters = item
            .get
            .iter_mut()
            .filter_map(|call| call.parameters.as_mut());
        for parameter in parameters.flatten() {
            let RefOr::T(given) = parameter else { continue };
            if let ("limit", Some(RefOr::T(Schema::Object(number)))) =
                (given.name.as_str(), &mut given.schema)
            {
                number.maximum = Some(most.into());
            }
        }
    }
}
