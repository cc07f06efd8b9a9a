//! The bytes of the files protocol, tickets, manifests and piece lists, as PROTOCOL.md prints them.

use std::fmt::Debug;

use bytes::Bytes;
use peerkit_proto::address::Address;
use peerkit_proto::files::wire::PREFIX;
use peerkit_proto::files::{
    AccessKind, Answer, Description, FileName, FileRefusal, Manifest, ManifestEntry, PieceList,
    Request, Secret, SharedFile, Ticket,
};
use peerkit_proto::id::Hash;

use super::{ann, assert_printed, bob, shared, vector};

/// Checks that a message of the files protocol is encoded as these digits and read back from them,
/// and that PROTOCOL.md prints them.
fn files_message<T: PartialEq + Debug, E: Debug>(
    name: &str,
    message: &T,
    encoded: Vec<u8>,
    decode: impl Fn(Bytes) -> Result<T, E>,
    digits: &str,
) {
    vector(name, &encoded, digits);
    assert_eq!(decode(Bytes::from(encoded).slice(PREFIX..)).unwrap(), *message, "{name}");
}

/// Returns the bytes 0, 1, ... 250, 0, 1, ... as in the test vectors of BLAKE3.
fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[test]
fn files_protocol_has_the_documented_bytes() {
    let hash = Hash::of(b"hi");
    let request = |name: &str, request: Request, digits: &str| {
        files_message(name, &request, request.encode(), Request::decode, digits);
    };
    request("describe", Request::Describe { hash }, DESCRIBE);
    request("pieces", Request::Pieces { hash, first: 0, count: 3 }, PIECES);
    request("data", Request::Data { hash, first: 2, count: 1 }, DATA);
    request("tree", Request::Tree { hash, first: 3, count: 64 }, TREE);
    let addresses: Vec<Address> = vec!["192.0.2.7:7117".parse().unwrap()];
    let follow = Request::Follow { hash, addresses: addresses.clone() };
    request("follow", follow, FOLLOW);
    request("cancel pieces", Request::Cancel, CANCEL_PIECES);
    let secret = Secret::from_bytes([3; 16]);
    let proof = secret.prove(&[7; 32], ann().id());
    request("present", Request::Present { proof }, PRESENT);
    let complete = |called| Request::Complete { hash, name: "ann".into(), called };
    request("complete", complete(None), COMPLETE);
    request("complete, called", complete(Some(shared().name)), COMPLETE_CALLED);

    let answer = |name: &str, answer: Answer, digits: &str| {
        files_message(name, &answer, answer.encode(), Answer::decode, digits);
    };
    answer("refused", Answer::Refused(FileRefusal::NotFound), REFUSED);
    let SharedFile { kind, size, name, .. } = shared();
    answer(
        "description",
        Answer::Description(Description {
            kind,
            access: AccessKind::Open,
            whole: true,
            size,
            stored: size,
            name,
        }),
        DESCRIPTION,
    );
    let values = vec![*hash.as_bytes()];
    answer("values", Answer::Pieces { first: 0, values }, VALUES);
    answer("piece", Answer::Piece { index: 0, len: 2 }, PIECE);
    answer("cancelled", Answer::Refused(FileRefusal::Cancelled), CANCELLED);
    answer("held", Answer::Held { first: 8, bits: Bytes::from_static(&[6, 8]) }, HELD);
    answer("whole", Answer::Whole, WHOLE);
    answer("sources", Answer::Sources(vec![(bob(), addresses)]), SOURCES);
}

#[test]
fn a_ticket_has_the_documented_bytes() {
    let ticket = Ticket {
        hash: Hash::of(b"hi"),
        node: ann().id(),
        secret: Some(Secret::from_bytes([3; 16])),
        network: "peerkit".into(),
        addresses: vec!["192.0.2.7:7117".parse().unwrap()],
        name: Some(FileName::new("hi.txt").unwrap()),
    };
    assert_eq!(ticket.to_string(), TICKET);
    assert_printed("ticket", TICKET);
    assert_eq!(TICKET.parse(), Ok(ticket.clone()));
    let nameless = Ticket { name: None, ..ticket };
    assert_eq!(nameless.to_string(), NAMELESS_TICKET);
    assert_printed("nameless ticket", NAMELESS_TICKET);
    assert_eq!(NAMELESS_TICKET.parse(), Ok(nameless));
}

#[test]
fn a_manifest_has_the_documented_bytes() {
    let path = |path: &str| path.parse().unwrap();
    let manifest = Manifest::new(vec![
        ManifestEntry::File {
            path: path("sub/hi.txt"),
            size: 2,
            hash: Hash::of(b"hi"),
            mode: 0o644,
        },
        ManifestEntry::Folder { path: path("sub"), mode: 0o755 },
    ])
    .unwrap();
    vector("manifest", &manifest.encode(), MANIFEST);
    vector("manifest's hash", Hash::of(&manifest.encode()).as_bytes(), MANIFEST_HASH);
    assert_eq!(Manifest::decode(manifest.encode().into()).unwrap(), manifest);
}

#[test]
fn a_piece_list_has_the_documented_bytes() {
    let content = pattern(5 << 19);
    let list = PieceList::of(&content);
    assert_eq!(list.count(), 3);
    for (value, digits) in list.values().iter().zip(PIECE_VALUES) {
        vector("piece value", value, digits);
    }
    vector("root", list.root().as_bytes(), PIECE_ROOT);
    assert_eq!(list.root(), Hash::of(&content));
    for index in 0..3 {
        let range = list.range(index).unwrap();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        list.verify_piece(index, &content[range]).unwrap();
    }
}

const DESCRIBE: &str = "210000000085052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de5da67d86ca";
const PIECES: &str = "\
    2b0000000185052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de5da67d86ca000000 \
    00000000000300";
const DATA: &str = "\
    2b0000000285052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de5da67d86ca020000 \
    00000000000100";
const TREE: &str = "\
    2b0000000385052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de5da67d86ca030000 \
    00000000004000";
const FOLLOW: &str = "\
    330000000485052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de5da67d86ca01000e \
    003139322e302e322e373a37313137";
const CANCEL_PIECES: &str = "0100000005";
const PRESENT: &str = "\
    21000000060a8d5eb770c72e69a0d1258e6c84d9e817da8d31efe3d31be2750c222bc26f63";
const COMPLETE: &str = "\
    260000000785052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de5da67d86ca\
    0300616e6e";
const COMPLETE_CALLED: &str = "\
    2e0000000785052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de5da67d86ca\
    0300616e6e060068692e747874";
const CANCELLED: &str = "020000000005";
const HELD: &str = "0b0000000408000000000000000608";
const WHOLE: &str = "0100000005";
const SOURCES: &str = "\
    350000000601008139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b39401 \
    000e003139322e302e322e373a37313137";
const TICKET: &str = "\
    peerkit1akcqklu2vmnwpntcfwkkbbcbwcp5ln5muypogycbnvyn4xngpwdmvcui4poxicprsx6vfwznhs5f24wkm4\
    e36hmucin7g5eiag2a6324aebqgaydambqgaydambqgaydambqoadqmvsxe23joqaqadqage4telrqfyzc4nz2g4yt\
    cnygabugsltupb2fo2vbhi";
const NAMELESS_TICKET: &str = "\
    peerkit1agcqklu2vmnwpntcfwkkbbcbwcp5ln5muypogycbnvyn4xngpwdmvcui4poxicprsx6vfwznhs5f24wkm4\
    e36hmucin7g5eiag2a6324aebqgaydambqgaydambqgaydambqoadqmvsxe23joqaqadqage4telrqfyzc4nz2g4yt\
    cn4sbsr7g";
const REFUSED: &str = "020000000001";
const DESCRIPTION: &str = "1c0000000100000102000000000000000200000000000000060068692e747874";
const VALUES: &str = "\
    2900000002000000000000000085052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de \
    5da67d86ca";
const PIECE: &str = "0d00000003000000000000000002000000";
const MANIFEST: &str = "\
    706565726b697420666f6c64657220310a02000000000300737562ed01010a007375622f68692e74 \
    7874a401020000000000000085052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de5d \
    a67d86ca";
const MANIFEST_HASH: &str = "29a2084390c3a5cf338216b4f6ec0b6e757f77d46d6baa1ef087068b511c6487";
const PIECE_ROOT: &str = "69ab2d8e1706bd33edfe40d058476f8b7fa57f1bbcffa777c6718ba5731dd415";
const PIECE_VALUES: [&str; 3] = [
    "8a576541118ebf5fad8d683c09b63402288a71616ecc72514abf780822136023",
    "e01e387e729abf35ba39644daebfa3a124ab9fee5a6445295e0309cc4fda53a7",
    "b65d5d05951c5725041e5c5a234ad097fdf1ff8d31832a78ef9474ec2c682482",
];
