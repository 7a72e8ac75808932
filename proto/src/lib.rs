//! The wire: messages and services of `trainyard.v1`, compiled from `proto/trainyard/v1` with protox.
//!
//! Owns the conversion between wire and core types, the bodies of the HTTP contract and the table of
//! statuses; never decides anything. Called by the API and session edges of the coordinator, by the link of the agent and
//! by clients.

pub mod codec;
pub mod convert;
pub mod http;
pub mod status;
mod version;

pub use version::version;

/// The generated messages, clients and servers of protobuf package `trainyard.v1`.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("trainyard.v1");
    include!(concat!(env!("OUT_DIR"), "/redacted.rs"));
}

/// The encoded `FileDescriptorSet` of all services, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::field_descriptor_proto::Type;

    use super::{DESCRIPTORS, v1};

    #[test]
    fn no_message_shows_a_secret() {
        let secret = || "hunter2".to_owned();
        let hello = v1::Hello {
            node_name: "n1".to_owned(),
            token: secret(),
            ..v1::Hello::default()
        };
        let frame = v1::connect_request::Frame::Hello(hello);
        let request = v1::ConnectRequest { frame: Some(frame) };
        let spec = v1::JobSpec {
            environment: [("KEY".to_owned(), secret())].into(),
            ..v1::JobSpec::default()
        };
        let start = v1::StartTask {
            secret: secret(),
            spec: Some(spec),
            ..v1::StartTask::default()
        };
        let pair = v1::TokenPair {
            access_token: secret(),
            refresh_token: secret(),
        };
        for shown in [
            format!("{request:?}"),
            format!("{start:?}"),
            format!("{pair:#?}"),
        ] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert!(format!("{request:?}").contains("n1"));
    }

    #[test]
    fn every_field_that_sounds_like_a_secret_is_one_that_is_not_shown() {
        // Of pages.
        let harmless = ["page_token", "next_page_token"];
        let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let hidden = include_str!(concat!(env!("OUT_DIR"), "/redacted.rs"));
        let ours = set
            .file
            .iter()
            .filter(|file| file.package() == "trainyard.v1");
        for message in ours.flat_map(|file| &file.message_type) {
            // Messages within are looked at themselves.
            let texts = message
                .field
                .iter()
                .filter(|field| field.r#type() == Type::String);
            for field in texts.map(|field| field.name()) {
                let sounds = ["token", "secret", "password", "credential", "hmac"];
                let sounds = sounds.iter().any(|word| field.contains(word));
                let own = hidden
                    .lines()
                    .skip_while(|line| !line.ends_with(&format!(" for {} {{", message.name())))
                    .take(3)
                    .any(|line| line.contains(&format!("{field:?}, &::core::format_args!")));
                assert!(
                    !sounds || harmless.contains(&field) || own,
                    "{}.{field} is shown; name it in build.rs",
                    message.name()
                );
            }
        }
    }
}
