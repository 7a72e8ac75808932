//! Compiles trainyard/v1/*.proto with protox, so that no protoc is needed. Messages with secrets are shown
//! without them: their `Debug` is written here.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

const FILES: [&str; 13] = [
    "trainyard/v1/agent_service.proto",
    "trainyard/v1/auth_service.proto",
    "trainyard/v1/dataset.proto",
    "trainyard/v1/dataset_service.proto",
    "trainyard/v1/job.proto",
    "trainyard/v1/job_service.proto",
    "trainyard/v1/node.proto",
    "trainyard/v1/node_service.proto",
    "trainyard/v1/project_service.proto",
    "trainyard/v1/report_service.proto",
    "trainyard/v1/store_service.proto",
    "trainyard/v1/user_service.proto",
    "trainyard/v1/tracker_service.proto",
];

/// Fields that are never shown, in whatever message they stand: what somebody is believed by, addresses that
/// are signed, and the environment of jobs.
const SECRET: [&str; 10] = [
    "access_token",
    "credential",
    "current_password",
    "environment",
    "new_password",
    "password",
    "refresh_token",
    "secret",
    "token",
    "url",
];

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let secret = secret(&descriptors);
    fs::write(out.join("redacted.rs"), redacted(&secret)?)?;
    let paths = secret.iter().map(|message| path(message.name()));
    tonic_prost_build::configure()
        .btree_map(".")
        .codec_path("crate::codec::Codec")
        .skip_debug(paths)
        .build_transport(false) // its `connect` would clash with AgentService.Connect
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=trainyard");
    Ok(())
}

/// Messages with at least one field that is never shown.
fn secret(descriptors: &FileDescriptorSet) -> Vec<DescriptorProto> {
    let files = descriptors.file.iter();
    let ours = files.filter(|file| file.package() == "trainyard.v1");
    let messages = ours.flat_map(|file| &file.message_type);
    let secret = |message: &&DescriptorProto| {
        let mut fields = message.field.iter();
        fields.any(|field| SECRET.contains(&field.name()))
    };
    messages.filter(secret).cloned().collect()
}

fn path(name: &str) -> String {
    format!(".trainyard.v1.{name}")
}

/// `Debug` of such messages.
fn redacted(messages: &[DescriptorProto]) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    for message in messages {
        let name = message.name();
        writeln!(code, "impl ::core::fmt::Debug for {name} {{")?;
        writeln!(
            code,
            "fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{"
        )?;
        write!(code, "f.debug_struct({name:?})")?;
        for field in &message.field {
            let field = field.name();
            match SECRET.contains(&field) {
                true => write!(code, ".field({field:?}, &::core::format_args!(\"…\"))")?,
                false => write!(code, ".field({field:?}, &self.{field})")?,
            }
        }
        writeln!(code, ".finish() }} }}")?;
    }
    Ok(code)
}
