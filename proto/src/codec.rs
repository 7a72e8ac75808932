//! How messages are put into bytes: as prost does, with small buffers.
//!
//! Owns their sizes. A stream keeps a buffer for each direction as long as it lives, and a coordinator holds two
//! streams of each agent on which little is said. Named by the build script, used by the generated code.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a stream begins with; it grows with what is said.
const BYTES: usize = 1 << 10;
/// What is gathered before it is sent.
const GATHERED: usize = 32 << 10;

/// The codec of all services.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BYTES, GATHERED))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BYTES, GATHERED))
    }
}
