//! Compiles trainyard/v1/*.proto with protox, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 12] = [
    "trainyard/v1/agent_service.proto",
    "trainyard/v1/auth_service.proto",
    "trainyard/v1/dataset.proto",
    "trainyard/v1/dataset_service.proto",
    "trainyard/v1/job.proto",
    "trainyard/v1/job_service.proto",
    "trainyard/v1/node.proto",
    "trainyard/v1/node_service.proto",
    "trainyard/v1/project_service.proto",
    "trainyard/v1/store_service.proto",
    "trainyard/v1/user_service.proto",
    "trainyard/v1/tracker_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .build_transport(false) // its `connect` would clash with AgentService.Connect
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=trainyard");
    Ok(())
}
