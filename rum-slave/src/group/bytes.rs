//! How shared bytes travel in messages: as any bytes do. What is read from a message is not copied if it is most of it.

use std::{cell::RefCell, fmt};

use rum_net::shared::SharedBytes;
use serde::{
    Deserializer, Serializer,
    de::{Error, Visitor},
};

thread_local! {
    /// The message that is being read in this thread. A `Deserialize` is told of nothing else than the bytes.
    static MESSAGE: RefCell<Option<SharedBytes>> = const { RefCell::new(None) };
}

/// Calls `read`, meanwhile parts of `message` are shared.
pub fn sharing<R>(message: SharedBytes, read: impl FnOnce() -> R) -> R {
    MESSAGE.set(Some(message));
    let result = read();
    MESSAGE.set(None);
    result
}

pub fn serialize<S: Serializer>(bytes: &SharedBytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SharedBytes, D::Error> {
    deserialize_by(deserializer, SharedBytes::keep)
}

/// As `deserialize`; `share` makes the bytes out of the message that they lie in.
pub fn deserialize_by<'de, D: Deserializer<'de>>(
    deserializer: D,
    share: fn(&SharedBytes, &[u8]) -> SharedBytes,
) -> Result<SharedBytes, D::Error> {
    struct Bytes(fn(&SharedBytes, &[u8]) -> SharedBytes);

    impl<'de> Visitor<'de> for Bytes {
        type Value = SharedBytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_borrowed_bytes<E: Error>(self, part: &'de [u8]) -> Result<SharedBytes, E> {
            MESSAGE.with_borrow(|message| {
                Ok(message.as_ref().map_or_else(|| part.into(), |message| (self.0)(message, part)))
            })
        }
    }

    deserializer.deserialize_bytes(Bytes(share))
}
