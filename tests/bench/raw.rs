//! Frames of an agent that were encoded before.
//!
//! Owns how such bytes go out over gRPC. Called by the measurement of points, which would else measure its own encoder.

use prost::Message as _;
use prost::bytes::{BufMut as _, Bytes};
use tonic::{
    Status,
    codec::{EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};
use trainyard_proto::v1::{ConnectRequest, ConnectResponse, RecordBatch};

/// A frame: its first bytes, and those that many frames share.
#[derive(Debug)]
pub(crate) struct Raw {
    head: Vec<u8>,
    body: Bytes,
}

impl Raw {
    /// Any frame.
    pub(crate) fn frame(frame: &ConnectRequest) -> Self {
        Self {
            head: frame.encode_to_vec(),
            body: Bytes::new(),
        }
    }

    /// A batch of a task and its first number, with records that are encoded already. Fields of a message may stand
    /// in any order and in pieces, so the two are one message.
    pub(crate) fn batch(of: &RecordBatch, records: Bytes) -> Self {
        /// Field 5 of a frame, with a length.
        const BATCH: u64 = 5 << 3 | 2;
        let start = of.encode_to_vec();
        let mut head = Vec::with_capacity(start.len() + 16);
        prost::encoding::encode_varint(BATCH, &mut head);
        let length = start.len() + records.len();
        prost::encoding::encode_varint(u64::try_from(length).unwrap_or(u64::MAX), &mut head);
        head.extend_from_slice(&start);
        Self {
            head,
            body: records,
        }
    }
}

/// Raw frames out, messages in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Codec;

impl tonic::codec::Codec for Codec {
    type Encode = Raw;
    type Decode = ConnectResponse;
    type Encoder = Self;
    type Decoder = ProstDecoder<ConnectResponse>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<ConnectRequest, ConnectResponse>::default().decoder()
    }
}

impl Encoder for Codec {
    type Item = Raw;
    type Error = Status;

    fn encode(&mut self, item: Raw, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item.head);
        buffer.put_slice(&item.body);
        Ok(())
    }
}
