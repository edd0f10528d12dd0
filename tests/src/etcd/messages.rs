//! The few messages of etcd's v3 API that are spoken here, with the field numbers of its public contract. Fields that
//! nobody reads are left out: an unknown field is skipped.
//!
//! They are not derived: the derive macro would give bindgen's dependencies other features, and whoever builds this
//! package would compile RocksDB anew.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

/// How fields are sent.
mod codec {
    pub(super) use prost::encoding::{bool, bytes, int32, int64, message, string, uint64};

    /// Several of them in a list.
    pub(super) mod messages {
        pub(in super::super) use prost::encoding::message::{
            encode_repeated as encode, encoded_len_repeated as encoded_len, merge_repeated as merge,
        };
    }
}

/// Defines a message by its fields, each with its [`codec`] and its number. A field that has the
/// value of its default is not sent.
macro_rules! message {
    ($(#[$attribute:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $codec:ident $type:ty = $tag:literal,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl Message for $name {
            fn encode_raw(&self, _buffer: &mut impl BufMut) {
                $(if self.$field != <$type>::default() {
                    codec::$codec::encode($tag, &self.$field, _buffer);
                })*
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire_type: WireType,
                buffer: &mut impl Buf,
                context: DecodeContext,
            ) -> Result<(), DecodeError> {
                match tag {
                    $($tag => codec::$codec::merge(wire_type, &mut self.$field, buffer, context),)*
                    _ => encoding::skip_field(wire_type, tag, buffer, context),
                }
            }

            fn encoded_len(&self) -> usize {
                0 $(+ if self.$field == <$type>::default() { 0 } else {
                    codec::$codec::encoded_len($tag, &self.$field)
                })*
            }

            fn clear(&mut self) {
                *self = Self::default();
            }
        }
    };
}

message! {
    RangeRequest {
        key: bytes Bytes = 1,
        /// The first key that is not meant any more; empty means the one key.
        range_end: bytes Bytes = 2,
        limit: int64 i64 = 3,
        /// Answered by the asked node from what it has.
        serializable: bool bool = 7,
        count_only: bool bool = 9,
    }
}

message! {
    /// The keys themselves are sent, and skipped here: how many there are is enough to know.
    RangeResponse {
        count: int64 i64 = 4,
    }
}

message! {
    PutRequest {
        key: bytes Bytes = 1,
        value: bytes Bytes = 2,
        lease: int64 i64 = 3,
    }
}

message! {
    PutResponse {
        header: message ResponseHeader = 1,
    }
}

message! {
    /// One of several that the contract knows.
    WatchRequest {
        create: message WatchCreateRequest = 1,
    }
}

message! {
    WatchCreateRequest {
        key: bytes Bytes = 1,
        /// The first key that is not meant any more.
        range_end: bytes Bytes = 2,
    }
}

message! {
    WatchResponse {
        created: bool bool = 3,
        canceled: bool bool = 4,
        events: messages Vec<WatchEvent> = 11,
    }
}

message! {
    WatchEvent {
        /// 0: it was put, 1: it was deleted.
        kind: int32 i32 = 1,
        key_value: message KeyValue = 2,
    }
}

message! {
    /// The value is sent, and skipped here.
    KeyValue {
        key: bytes Bytes = 1,
        /// Of the change that this tells of.
        mod_revision: int64 i64 = 3,
    }
}

message! {
    LeaseGrantRequest {
        ttl_s: int64 i64 = 1,
        /// 0 lets the server choose.
        id: int64 i64 = 2,
    }
}

message! {
    LeaseGrantResponse {
        id: int64 i64 = 2,
    }
}

message! {
    LeaseKeepAliveRequest {
        id: int64 i64 = 1,
    }
}

message! {
    LeaseKeepAliveResponse {
        id: int64 i64 = 2,
        /// Zero or less: there is no such lease any more.
        ttl_s: int64 i64 = 3,
    }
}

message! {
    StatusRequest {}
}

message! {
    ResponseHeader {
        member_id: uint64 u64 = 2,
        revision: int64 i64 = 3,
    }
}

message! {
    StatusResponse {
        /// Of the member that answers.
        header: message ResponseHeader = 1,
        version: string String = 2,
        /// 0 while nobody leads.
        leader: uint64 u64 = 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_contract() {
        let put = PutRequest { key: "k".into(), value: "vv".into(), lease: 300 };
        assert_eq!(put.encode_to_vec(), [0x0a, 1, b'k', 0x12, 2, b'v', b'v', 0x18, 0xac, 0x02]);
        assert_eq!(PutRequest::decode(&put.encode_to_vec()[..]), Ok(put));
        assert!(RangeRequest::default().encode_to_vec().is_empty());
        let range = RangeRequest { key: "a".into(), serializable: true, ..RangeRequest::default() };
        assert_eq!(range.encode_to_vec(), [0x0a, 1, b'a', 0x38, 1]);
        assert_eq!(LeaseGrantRequest { ttl_s: 30, id: 0 }.encode_to_vec(), [0x08, 30]);
    }

    #[test]
    fn events_of_a_watch_are_a_list() {
        let event = |kind, key: &'static str, mod_revision| WatchEvent {
            kind,
            key_value: KeyValue { key: key.into(), mod_revision },
        };
        let told = WatchResponse { events: vec![event(0, "a", 7), event(1, "b", 8)], ..WatchResponse::default() };
        let bytes = [0x5a, 7, 0x12, 5, 0x0a, 1, b'a', 0x18, 7, 0x5a, 9, 0x08, 1, 0x12, 5, 0x0a, 1, b'b', 0x18, 8];
        assert_eq!(told.encode_to_vec(), bytes);
        assert_eq!(WatchResponse::decode(&bytes[..]), Ok(told));
        let whole = WatchRequest { create: WatchCreateRequest { key: "a".into(), range_end: "b".into() } };
        assert_eq!(whole.encode_to_vec(), [0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'b']);
    }

    #[test]
    fn unknown_fields_are_skipped() {
        // A header, two key-values and the count.
        let answer = [0x0a, 2, 0x10, 5, 0x12, 3, 0x0a, 1, b'x', 0x12, 0, 0x20, 2];
        assert_eq!(RangeResponse::decode(&answer[..]), Ok(RangeResponse { count: 2 }));
        let status = [0x0a, 4, 0x08, 1, 0x10, 7, 0x12, 1, b'3', 0x18, 9, 0x20, 7];
        let header = ResponseHeader { member_id: 7, revision: 0 };
        let expected = StatusResponse { header, version: "3".to_owned(), leader: 7 };
        assert_eq!(StatusResponse::decode(&status[..]), Ok(expected));
    }
}
