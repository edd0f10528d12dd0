//! The bytes of what is nowhere public. A golden changes only together with its kind's version.

use rollcall_registry::state::{Header, Past};
use rollcall_registry::{ChangeKind, ClusterTime, Digest, Edition, Epoch, Revision, WallTime};

use super::backup::BackupHead;
use super::frames::{Frame, Row};
use super::rows::{StateHeader, Table};
use crate::codec::{self, Kind};
use crate::data_dir::{ClusterId, Unfinished};
use crate::types::{StoredMembership, TypeConfig};

#[test]
fn p13_private_kinds_have_their_bytes() {
    let header = StateHeader {
        applied: Some(openraft::testing::log_id::<TypeConfig>(3, 1, 300)),
        membership: StoredMembership::default(),
        header: Header {
            epoch: Epoch(1),
            revision: Revision(2),
            edition: Edition(6),
            now: ClusterTime(3),
            wall: WallTime(4),
            sessions: Default::default(),
            digest: Digest(5),
        },
    };
    let row = Row { key: vec![1, 2], record: vec![3] };
    let frames = [
        codec::encode(Kind::StateHeader, &header),
        codec::encode(Kind::SnapshotFrame, &Frame::Head(header)),
        codec::encode(Kind::SnapshotFrame, &Frame::Rows { table: Table::Instances, rows: vec![row] }),
        codec::encode(Kind::SnapshotFrame, &Frame::End { rows: 7, digest: Digest(8) }),
        codec::encode(Kind::Generation, &9u64),
        codec::encode(
            Kind::BackupHead,
            &BackupHead { cluster_id: ClusterId(11), node_id: 12, version: "1.2.3".to_owned() },
        ),
        codec::encode(Kind::Unfinished, &Unfinished::Restore),
        codec::encode(Kind::Unfinished, &Unfinished::Recovery { cluster_id: ClusterId(13), epoch: Epoch(14) }),
        codec::encode(Kind::Starts, &300u64),
        codec::encode(Kind::History, &vec![Past { kind: ChangeKind::Expired, wall: WallTime(10), before: None }]),
    ];
    let hex = frames.map(|frame| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    assert_eq!(
        hex,
        [
            "0601010301fb2c0100000001020603040005",
            "070100010301fb2c0100000001020603040005",
            "07010101010201020103",
            "0701020708",
            "0b0109",
            "0e010b0c05312e322e33",
            "0f0100",
            "0f01010d0e",
            "1301fb2c01",
            "0d0101040a00",
        ]
    );
}
