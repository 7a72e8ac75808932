//! The table: every call of both doors, and what each caller is answered. Written from ADR 7 and the
//! contract, by hand: a described call or method that it does not name fails the test, and so does another status.
//! Routes that no document names stand in [`UNDESCRIBED`], which whoever adds one adds it to. The calls of agents have
//! a table of their own (`agents.rs`); reflection and health of gRPC are everybody's.
//!
//! One row is one call: its REST route, its gRPC method (`-` where a door has none), and the HTTP
//! status for each caller of [`CALLERS`]; the gRPC code is that of the same kind. Words in braces are
//! what the call is about; it is there, and is the project's or somebody else's than the caller's.
//! After `#` stand variants of one route. Paths lie below `/api/v1`, but for those that begin with `//`.

/// Who calls: nobody; one with each system role and in no project; one with each role in the project
/// (a standard engineer otherwise); the administrator of another project; a service account that is a
/// member, by its API key.
pub(super) const CALLERS: [&str; 11] = [
    "none", "guest", "standard", "advanced", "manager", "admin", "viewer", "member", "lead",
    "other", "key",
];

pub(super) const TABLE: &str = "
POST:/auth/login                               AuthService/Login               200  200 200 200 200 200  200 200 200  200 200
POST:/auth/refresh                             AuthService/Refresh             200  200 200 200 200 200  200 200 200  200 200
POST:/auth/register                            -                               201  201 201 201 201 201  201 201 201  201 201
GET:/auth/me                                   AuthService/Me                  401  200 200 200 200 200  200 200 200  200 200
PUT:/auth/me                                   -                               401  200 200 200 200 200  200 200 200  200 200
PUT:/auth/password                             UserService/SetMyPassword       401  400 400 400 400 400  400 400 400  400 400
POST:/auth/logout                              UserService/Logout              401  200 200 200 200 200  200 200 200  200 400
GET:/health                                    -                               200  200 200 200 200 200  200 200 200  200 200
GET:/metrics                                   -                               200  200 200 200 200 200  200 200 200  200 200
GET:/models/list                               -                               200  200 200 200 200 200  200 200 200  200 200
GET:/models/get?framework={framework}&model_name={model} -                     200  200 200 200 200 200  200 200 200  200 200
GET:/models/{framework}/{model}                -                               200  200 200 200 200 200  200 200 200  200 200
GET:/models/capabilities/{framework}           -                               200  200 200 200 200 200  200 200 200  200 200

GET:/users                                     UserService/ListUsers           401  403 403 403 403 200  403 403 403  403 403
POST:/users                                    UserService/CreateUser          401  403 403 403 403 201  403 403 403  403 403
GET:/users/{user}                              -                               401  403 403 403 403 200  403 403 403  403 403
PATCH:/users/{user}                            UserService/UpdateUser          401  403 403 403 403 200  403 403 403  403 403
PUT:/users/{user}                              -                               401  403 403 403 403 200  403 403 403  403 403
PUT:/users/{user}/password                     UserService/SetPassword         401  403 403 403 403 200  403 403 403  403 403
GET:/service-accounts                          -                               401  403 403 403 403 200  403 403 403  403 403
POST:/service-accounts                         UserService/CreateServiceAccount 401 403 403 403 403 201  403 403 403  403 403
GET:/api-keys                                  UserService/ListApiKeys         401  403 403 403 403 200  403 403 403  403 403
POST:/api-keys#{account}                       UserService/CreateApiKey        401  403 403 403 403 201  403 403 403  403 403
DELETE:/api-keys/{key}                         UserService/RevokeApiKey        401  403 403 403 403 200  403 403 403  403 403
POST:/auth/keys/rotate                         UserService/RotateKeys          401  403 403 403 403 200  403 403 403  403 403

GET:/projects                                  ProjectService/ListProjects     401  200 200 200 200 200  200 200 200  200 200
POST:/projects                                 ProjectService/CreateProject    401  403 403 201 201 201  403 403 403  403 403
GET:/projects/{project}                        ProjectService/GetProject       401  404 404 404 200 200  200 200 200  404 200
PATCH:/projects/{project}                      ProjectService/UpdateProject    401  404 404 404 200 200  403 403 200  404 403
PUT:/projects/{project}                        -                               401  404 404 404 200 200  403 403 200  404 403
GET:/projects/{project}/members                -                               401  404 404 404 200 200  200 200 200  404 200
POST:/projects/{project}/members#{user}        ProjectService/SetMember        401  404 404 404 201 201  403 403 201  404 403
PUT:/projects/{project}/members/{user}         -                               401  404 404 404 200 200  403 403 200  404 403
PATCH:/projects/{project}/members/{user}       -                               401  404 404 404 200 200  403 403 200  404 403
DELETE:/projects/{project}/members/{insider}   ProjectService/RemoveMember     401  404 404 404 200 200  403 403 200  404 403
GET:/projects/{project}/experiments            -                               401  404 404 404 200 200  200 200 200  404 200

POST:/training/jobs#own                        JobService/SubmitJob            401  403 200 200 200 200  200 200 200  200 200
POST:/training/jobs#{project}                  JobService/SubmitJob            401  404 404 404 200 200  403 200 200  404 200
GET:/training/jobs                             JobService/ListJobs             401  200 200 200 200 200  200 200 200  200 200
GET:/training/jobs?project_id={project}        JobService/ListJobs             401  404 404 404 200 200  200 200 200  404 200
GET:/training/jobs/{job}                       JobService/GetJob               401  404 404 404 200 200  200 200 200  404 200
GET:/training/jobs/{theirs}#theirs             JobService/GetJob               401  404 404 404 200 200  404 404 404  404 404
GET:/training/jobs/{job}/status                JobService/WatchJob             401  404 404 404 200 200  200 200 200  404 200
GET:/training/jobs/{job}/metrics               JobService/ListMetrics          401  404 404 404 200 200  200 200 200  404 200
-#{job}                                        JobService/StreamMetrics        401  404 404 404 200 200  200 200 200  404 200
GET:/training/jobs/{job}/metric-schema         -                               401  404 404 404 200 200  200 200 200  404 200
GET:/training/jobs/{job}/logs                  JobService/ListLogs             401  404 404 404 200 200  200 200 200  404 200
-#{job}                                        JobService/StreamLogs           401  404 404 404 200 200  200 200 200  404 200
-#{job}                                        JobService/ExplainJob           401  404 404 404 200 200  200 200 200  404 200
-#{theirs}                                     JobService/ExplainJob           401  404 404 404 200 200  404 404 404  404 404
-#own                                          JobService/ForeseeJob           401  403 200 200 200 200  200 200 200  200 200
-#{project}                                    JobService/ForeseeJob           401  404 404 404 200 200  403 200 200  404 200
GET:/training/jobs/{job}/checkpoints           -                               401  404 404 404 200 200  200 200 200  404 200
GET:/validation/jobs/{job}/results             -                               401  404 404 404 200 200  200 200 200  404 200
GET:/validation/jobs/{job}/summary             -                               401  404 404 404 200 200  200 200 200  404 200
GET:/ws/training?job_id={job}                  -                               401  404 404 404 400 400  400 400 400  404 400
POST:/training/jobs/{job}/cancel               JobService/CancelJob            401  404 404 404 200 200  403 200 200  404 200
POST:/training/jobs/{theirs}/cancel#theirs     JobService/CancelJob            401  404 404 404 200 200  404 404 404  404 404
POST:/training/stop/{job}                      -                               401  404 404 404 200 200  403 200 200  404 200
POST:/training/jobs/{job}/start                -                               401  404 404 404 200 200  403 200 200  404 200
POST:/training/jobs/{ended}/restart            -                               401  404 404 404 200 200  403 200 200  404 200
POST:/training/jobs/{job}/checkpoints/upload-url -                             401  404 404 404 200 200  403 200 200  404 200

POST:/training/jobs/{job}/callback/progress    -                               404  404 404 404 404 404  404 404 404  404 404
POST:/training/jobs/{job}/callback/completion  -                               404  404 404 404 404 404  404 404 404  404 404
POST:/training/jobs/{job}/callback/logs        -                               404  404 404 404 404 404  404 404 404  404 404
POST:/training/jobs/{job}/callback/log         -                               404  404 404 404 404 404  404 404 404  404 404
POST:/validation/jobs/{job}/results            -                               404  404 404 404 404 404  404 404 404  404 404

GET:/datasets                                  DatasetService/ListDatasets     401  403 200 200 200 200  200 200 200  200 200
POST:/datasets                                 DatasetService/AddDataset       401  403 403 200 200 200  403 403 403  403 403
GET:/datasets/{dataset}                        DatasetService/GetDataset       401  403 200 200 200 200  200 200 200  200 200
DELETE:/datasets/{dataset}                     DatasetService/RemoveDataset    401  403 403 200 200 200  403 403 403  403 403
GET:/snapshots                                 DatasetService/ListSnapshots    401  403 200 200 200 200  200 200 200  200 200
GET:/snapshots/{snapshot}                      DatasetService/GetSnapshot      401  403 200 200 200 200  200 200 200  200 200
DELETE:/snapshots/{snapshot}                   DatasetService/DeleteSnapshot   401  403 403 200 200 200  403 403 403  403 403

GET:/trackers                                  TrackerService/ListTrackers     401  403 403 403 403 200  403 403 403  403 403
-                                              StoreService/Backup             401  403 403 403 403 200  403 403 403  403 403
POST:/nodes/tokens                             NodeService/CreateJoinToken     401  403 403 403 403 201  403 403 403  403 403
GET:/nodes/tokens                              NodeService/ListJoinTokens      401  403 403 403 403 200  403 403 403  403 403
DELETE:/nodes/tokens/{token}                   NodeService/RevokeJoinToken     401  403 403 403 403 200  403 403 403  403 403
GET:/nodes                                     NodeService/ListNodes           401  403 200 200 200 200  200 200 200  200 200
GET:/nodes/{node}                              NodeService/GetNode             401  403 200 200 200 200  200 200 200  200 200
POST:/nodes/{node}/resume                      NodeService/Resume              401  403 403 403 403 200  403 403 403  403 403
POST:/nodes/{node}/drain                       NodeService/Drain               401  403 403 403 403 200  403 403 403  403 403
POST:/nodes/{node}/cordon                      NodeService/Cordon              401  403 403 403 403 200  403 403 403  403 403
GET:/maintenance                               NodeService/ListMaintenance     401  403 200 200 200 200  200 200 200  200 200
POST:/maintenance                              NodeService/AddMaintenance      401  403 403 403 403 201  403 403 403  403 403
DELETE:/maintenance/{window}                   NodeService/RemoveMaintenance   401  403 403 403 403 200  403 403 403  403 403
PATCH:/nodes/{node}/labels                     NodeService/SetLabels           401  403 403 403 403 200  403 403 403  403 403
POST:/nodes/{node}/revoke                      NodeService/RevokeNode          401  403 403 403 403 200  403 403 403  403 403

GET:/openapi.json                                                              - 200  200 200 200 200 200  200 200 200  200 200
GET://health                                                                   - 200  200 200 200 200 200  200 200 200  200 200
GET://metrics                                                                  - 200  200 200 200 200 200  200 200 200  200 200
GET://docs/                                                                    - 200  200 200 200 200 200  200 200 200  200 200
POST://t/{secret}/api/v1/training/jobs/{job}/callback/progress                 - 404  404 404 404 404 404  404 404 404  404 404
POST://t/{secret}/api/v1/training/jobs/{job}/callback/completion               - 404  404 404 404 404 404  404 404 404  404 404
POST://t/{secret}/api/v1/training/jobs/{job}/callback/logs                     - 404  404 404 404 404 404  404 404 404  404 404
POST://t/{secret}/api/v1/training/jobs/{job}/callback/log                      - 404  404 404 404 404 404  404 404 404  404 404
POST://t/{secret}/api/v1/validation/jobs/{job}/results                         - 404  404 404 404 404 404  404 404 404  404 404
GET:/files/{file}                                                              - 403  403 403 403 403 403  403 403 403  403 403
PUT:/files/{file}                                                              - 403  403 403 403 403 403  403 403 403  403 403
PUT:/files/{way}#signed                                                        - 200  200 200 200 200 200  200 200 200  200 200
";

/// Routes that the OpenAPI document does not show: the WebSocket, itself and its pages, what answers outside of
/// `/api/v1` too, trainers whose secret stands in the path (here one that is guessed), and files by signed links, at
/// which nothing but the link counts.
pub(super) const UNDESCRIBED: [&str; 12] = [
    "GET:/ws/training",
    "GET:/openapi.json",
    "GET://health",
    "GET://metrics",
    "GET://docs/",
    "POST://t/{}/api/v1/training/jobs/{}/callback/progress",
    "POST://t/{}/api/v1/training/jobs/{}/callback/completion",
    "POST://t/{}/api/v1/training/jobs/{}/callback/logs",
    "POST://t/{}/api/v1/training/jobs/{}/callback/log",
    "POST://t/{}/api/v1/validation/jobs/{}/results",
    "GET:/files/{}",
    "PUT:/files/{}",
];

/// One call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// `METHOD:/path`, or `-`; what it is about in braces.
    pub(super) rest: &'static str,
    /// `Service/Method`, or `-`.
    pub(super) grpc: &'static str,
    /// For each caller.
    pub(super) statuses: [u16; CALLERS.len()],
}

/// All calls.
pub(super) fn rows() -> Vec<Row> {
    let lines = TABLE.lines().filter(|line| !line.is_empty());
    lines.map(row).collect()
}

fn row(line: &'static str) -> Row {
    let mut words = line.split_whitespace();
    let (rest, grpc) = (words.next().unwrap(), words.next().unwrap());
    let statuses: Vec<u16> = words.map(|word| word.parse().unwrap()).collect();
    let statuses = statuses.try_into().unwrap_or_else(|_| panic!("{line}"));
    Row {
        rest,
        grpc,
        statuses,
    }
}

impl Row {
    /// The route without what it is about, as it stands in the document; none where there is none.
    pub(super) fn route(&self) -> Option<String> {
        let route = self.rest.split(['#', '?']).next()?;
        (route != "-").then(|| shape(route))
    }

    /// Whether it is refused without a token.
    pub(super) fn needs_user(&self) -> bool {
        self.statuses[0] == 401
    }
}

/// A path with its parameters empty.
pub(super) fn shape(path: &str) -> String {
    let parts = path.split('/').map(|part| match part.starts_with('{') {
        true => "{}",
        false => part,
    });
    parts.collect::<Vec<_>>().join("/")
}
