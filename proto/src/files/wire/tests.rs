use super::*;
use crate::files::path::NameFault;
use proptest::prelude::*;

fn body(message: Vec<u8>) -> Bytes {
    let (prefix, body) = message.split_first_chunk::<PREFIX>().unwrap();
    assert_eq!(body_len(*prefix, MAX_ANSWER), Ok(body.len()));
    Bytes::copy_from_slice(body)
}

fn address_lists() -> impl Strategy<Value = Vec<Address>> {
    let address = (any::<[u8; 4]>(), 1..=u16::MAX)
        .prop_map(|(ip, port)| Address::from_socket((ip, port).into()));
    proptest::collection::vec(address, 0..=MAX_ADDRESSES)
}

fn requests() -> impl Strategy<Value = Request> {
    let hash = any::<[u8; 32]>().prop_map(Hash::from_bytes);
    let part =
        (hash, 0..8u8, any::<u64>(), 1..=MAX_PER_REQUEST, any::<[u8; 32]>(), address_lists());
    part.prop_map(|(hash, kind, first, count, proof, addresses)| match kind {
        0 => Request::Describe { hash },
        1 => Request::Pieces { hash, first, count },
        2 => Request::Data { hash, first, count },
        3 => Request::Tree { hash, first, count },
        4 => Request::Follow { hash, addresses },
        5 => Request::Cancel,
        6 => Request::Present { proof },
        // Names of up to 64 bytes, with two bytes for each character.
        _ => Request::Complete {
            hash,
            name: "é".repeat(usize::from(proof[0] % 33)),
            called: FileName::new("é".repeat(usize::from(proof[1] % 128))).ok(),
        },
    })
}

fn complete(name: &str, called: Option<&str>) -> Request {
    let called = called.map(|called| FileName::new(called).unwrap());
    Request::Complete { hash: Hash::from_bytes([7; 32]), name: name.into(), called }
}

fn answers() -> impl Strategy<Value = Answer> {
    let access =
        proptest::sample::select(vec![AccessKind::Open, AccessKind::Nodes, AccessKind::Ticket]);
    let source = (any::<[u8; 32]>().prop_map(NodeId::from_bytes), address_lists());
    prop_oneof![
        any::<u8>().prop_map(|code| Answer::Refused(FileRefusal::from_code(code))),
        (any::<bool>(), access, any::<u64>(), "[a-z]{1,30}").prop_map(
            |(folder, access, size, name)| {
                let kind = if folder { FileKind::Folder } else { FileKind::File };
                let name = FileName::new(format!("{name}_")).unwrap();
                Answer::Description(Description {
                    kind,
                    access,
                    whole: folder,
                    size,
                    stored: size / 2,
                    name,
                })
            }
        ),
        (any::<u64>(), proptest::collection::vec(any::<[u8; 32]>(), 1..40))
            .prop_map(|(first, values)| Answer::Pieces { first, values }),
        (any::<u64>(), 0..=PIECE as u32).prop_map(|(index, len)| Answer::Piece { index, len }),
        (any::<u64>(), any::<Vec<u8>>())
            .prop_map(|(first, bits)| Answer::Held { first, bits: bits.into() }),
        Just(Answer::Whole),
        proptest::collection::vec(source, 0..=MAX_SOURCES).prop_map(Answer::Sources),
    ]
}

#[test]
fn messages_have_the_documented_bytes() {
    let hash = Hash::from_bytes([9; 32]);
    let mut expected = vec![43, 0, 0, 0, 2];
    expected.extend([9; 32]);
    expected.extend([5, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
    let request = Request::Data { hash, first: 5, count: 1024 };
    assert_eq!(request.encode(), expected);
    let answer = Answer::Description(Description {
        access: AccessKind::Ticket,
        kind: FileKind::Folder,
        whole: true,
        size: 258,
        stored: 3,
        name: FileName::new("ab").unwrap(),
    });
    assert_eq!(
        answer.encode(),
        [24, 0, 0, 0, 1, 1, 2, 1, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, b'a', b'b']
    );
    assert_eq!(Answer::Refused(FileRefusal::Changed).encode(), [2, 0, 0, 0, 0, 2]);
    assert_eq!(
        Answer::Piece { index: 1, len: 7 }.encode(),
        [13, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]
    );
    assert_eq!(Request::Cancel.encode(), [1, 0, 0, 0, 5]);
    assert_eq!(complete("bob", None).encode(), {
        let mut expected = vec![38, 0, 0, 0, 7];
        expected.extend([7; 32]);
        expected.extend([3, 0, b'b', b'o', b'b']);
        expected
    });
    // `called` is the last field, and has to be a valid name.
    let mut called = complete("bob", None).encode();
    called.extend([1, 0, b'a']);
    let decode = |bytes: &[u8]| Request::decode(Bytes::copy_from_slice(&bytes[PREFIX..]));
    assert_eq!(decode(&called).unwrap(), complete("bob", Some("a")));
    assert_eq!(complete("bob", Some("a")).encode()[PREFIX..], called[PREFIX..]);
    for wrong in [&[0][..], &[0, 0], &[1, 0, b'/'], &[1, 0, b'a', b'b'], &[2, 0, b'.', b'.']] {
        let mut request = complete("bob", None).encode();
        request.extend(wrong);
        decode(&request).unwrap_err();
    }
    let cut = decode(&complete(&"é".repeat(40), None).encode()).unwrap();
    assert_eq!(cut, complete(&"é".repeat(32), None));
    assert_eq!(Request::Present { proof: [7; 32] }.encode(), {
        let mut expected = vec![33, 0, 0, 0, 6];
        expected.extend([7; 32]);
        expected
    });
    let addresses = vec!["1.2.3.4:5".parse().unwrap()];
    let encoded = [1, 0, 9, 0, b'1', b'.', b'2', b'.', b'3', b'.', b'4', b':', b'5'];
    let follow = Request::Follow { hash, addresses: addresses.clone() }.encode();
    assert_eq!(follow[..5], [46, 0, 0, 0, 4]);
    assert_eq!((&follow[5..37], &follow[37..]), (&[9; 32][..], &encoded[..]));
    let held = Answer::Held { first: 8, bits: Bytes::from_static(&[6, 8]) };
    assert_eq!(held.encode(), [11, 0, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 6, 8]);
    assert_eq!(Answer::Whole.encode(), [1, 0, 0, 0, 5]);
    let sources = Answer::Sources(vec![(NodeId::from_bytes([2; 32]), addresses)]).encode();
    assert_eq!(sources[..7], [48, 0, 0, 0, 6, 1, 0]);
    assert_eq!((&sources[7..39], &sources[39..]), (&[2; 32][..], &encoded[..]));
}

#[test]
fn messages_over_a_limit_are_refused() {
    assert!(body_len([0xff; 4], MAX_ANSWER).is_err());
    let hash = Hash::from_bytes([0; 32]);
    for count in [0, MAX_PER_REQUEST + 1] {
        let request = Request::Pieces { hash, first: 0, count };
        assert!(Request::decode(body(request.encode())).is_err());
    }
    let long = format!("{}@{}:65535", NodeId::from_bytes([2; 32]), ["a"; 127].join("."));
    let addresses: Vec<Address> = vec![long.parse().unwrap(); MAX_ADDRESSES];
    let follow = Request::Follow { hash, addresses: addresses.clone() };
    assert!(follow.encode().len() <= PREFIX + MAX_REQUEST);
    assert_eq!(Request::decode(body(follow.encode())), Ok(follow));
    let sources = Answer::Sources(vec![(NodeId::from_bytes([2; 32]), addresses); MAX_SOURCES]);
    assert!(sources.encode().len() <= PREFIX + MAX_ANSWER);
    assert_eq!(Answer::decode(body(sources.encode())), Ok(sources));
    let mut too_many = vec![6];
    too_many.put_u16(MAX_SOURCES as u16 + 1);
    assert!(Answer::decode(too_many.into()).is_err());
    let values = vec![[0; 32]; usize::from(MAX_PER_REQUEST)];
    let full = Answer::Pieces { first: 0, values };
    assert!(full.encode().len() <= MAX_ANSWER);
    let long = Answer::Piece { index: 0, len: PIECE as u32 + 1 };
    assert!(Answer::decode(body(long.encode())).is_err());
}

#[test]
fn an_error_contains_a_refused_name() {
    let mut out = vec![1, 0, 0, 1];
    out.put_u64(1);
    out.put_u64(1);
    out.put_str("../../x");
    match Answer::decode(out.into()) {
        Err(WireError::Name(error)) => {
            assert_eq!((&error.name[..], error.fault), ("../../x", NameFault::Separator));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_of_an_unknown_kind_is_not_an_error() {
    assert_eq!(Request::decode(Bytes::from_static(&[200, 1, 2])), Ok(Request::Unknown(200)));
}

proptest! {
    #[test]
    fn encoded_messages_are_decoded_unchanged(request in requests(), answer in answers()) {
        prop_assert_eq!(Request::decode(body(request.encode())), Ok(request));
        prop_assert_eq!(Answer::decode(body(answer.encode())), Ok(answer.clone()));
        let cut = body(answer.encode());
        for len in 0..cut.len() {
            if let Ok(other) = Answer::decode(cut.slice(..len)) {
                prop_assert_ne!(other, answer.clone());
            }
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in any::<Vec<u8>>()) {
        let bytes = Bytes::from(bytes);
        if let Ok(answer) = Answer::decode(bytes.clone()) {
            prop_assert_eq!(&answer.encode()[PREFIX..], &bytes[..]);
        }
        if let Ok(request) = Request::decode(bytes.clone()) && !matches!(request, Request::Unknown(_)) {
            prop_assert_eq!(&request.encode()[PREFIX..], &bytes[..]);
        }
    }
}
