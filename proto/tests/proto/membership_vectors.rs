//! The bytes of invitations, certificates and revocations in PROTOCOL.md.

use bytes::Bytes;
use peerkit_proto::codec::{Reader, Writer};
use peerkit_proto::event::Reason;
use peerkit_proto::frame::Frame;
use peerkit_proto::hello::{Hello, StreamOpen};
use peerkit_proto::id::{Hash, Key, NodeId};
use peerkit_proto::invitation::{
    Certificate, Invitation, InvitationTerms, Invite, MembershipError, MembershipProof, Revocation,
};

use crate::vectors::{ann, assert_printed, bob, bob_key, frame, hello, vector};

const TIME: u64 = 1_700_000_000_000;
const WEEK: u64 = 7 * 24 * 60 * 60 * 1000;

/// The network's owner.
fn owner() -> Key {
    Key::from_secret(&[3; 32])
}

/// The invitation's key pair.
fn invitation_key() -> Key {
    Key::from_secret(&[4; 32])
}

fn invitation() -> Invitation {
    let inviter = ann().id();
    let terms = InvitationTerms { inviter, issued: TIME, expires: TIME + WEEK, uses: 1 };
    Invitation::sign(&owner(), "peerkit", invitation_key().id(), terms)
}

fn accepted() -> MembershipProof {
    invitation().accept(&invitation_key(), "peerkit", &bob_key())
}

fn certificate() -> Certificate {
    let by = (ann().id(), invitation_key().id());
    Certificate::sign(&owner(), "peerkit", bob(), by, (TIME, 5))
}

fn prefix(context: &[u8]) -> Vec<u8> {
    let mut signed = Vec::new();
    signed.put_bytes(context);
    signed.put_str("peerkit");
    signed
}

fn put_ids(out: &mut Vec<u8>, ids: &[NodeId]) {
    ids.iter().for_each(|id| out.put_raw(id.as_bytes()));
}

#[test]
fn proofs_have_the_documented_bytes() {
    let mut signed = prefix(b"peerkit invitation 1");
    put_ids(&mut signed, &[owner().id(), invitation_key().id(), ann().id()]);
    signed.put_u64(TIME);
    signed.put_u64(TIME + WEEK);
    signed.put_u32(1);
    assert_eq!(invitation().signature, owner().sign(&signed));
    let MembershipProof::Invitation(proof) = accepted() else { panic!("an accepted invitation") };
    let mut signed = prefix(b"peerkit acceptance 1");
    put_ids(&mut signed, &[invitation_key().id(), bob()]);
    assert_eq!(proof.signature, invitation_key().sign(&signed));
    let mut signed = prefix(b"peerkit consent 1");
    put_ids(&mut signed, &[invitation_key().id(), bob()]);
    assert_eq!(proof.consent, bob_key().sign(&signed));
    let mut signed = prefix(b"peerkit certificate 1");
    put_ids(&mut signed, &[owner().id(), bob(), ann().id(), invitation_key().id()]);
    signed.put_u64(5);
    signed.put_u64(TIME);
    signed.put_u64(certificate().expires);
    assert_eq!(certificate().signature, owner().sign(&signed));
    for (name, proof, digits) in [
        ("accepted invitation", accepted(), ACCEPTED),
        ("certificate", MembershipProof::Certificate(certificate()), CERTIFICATE),
    ] {
        let mut out = Vec::new();
        proof.encode(&mut out);
        vector(name, &out, digits);
        assert_eq!(MembershipProof::decode(&mut Reader::new(out.into())), Ok(proof));
    }
}

#[test]
fn frames_with_proofs_have_the_documented_bytes() {
    frame("roster digest", &Frame::RosterDigest(Hash::of(b"hi")), DIGEST);
    let members = Frame::Members(vec![MembershipProof::Certificate(certificate())]);
    frame("members", &members, MEMBERS);
    let revocation = Revocation::sign(&owner(), "peerkit", bob(), TIME);
    let mut signed = prefix(b"peerkit revocation 1");
    put_ids(&mut signed, &[owner().id(), bob()]);
    signed.put_u64(TIME);
    assert_eq!(revocation.signature, owner().sign(&signed));
    frame("revocations", &Frame::Revocations(vec![revocation]), REVOCATIONS);
    let invited = Hello { membership: Some(Box::new(accepted())), ..hello() };
    frame("hello, invited", &Frame::Hello(invited), HELLO_INVITED);
    let reason = Reason::NotAMember(MembershipError::Expired);
    frame("goodbye, expired", &Frame::Goodbye { reason, received: 0 }, GOODBYE_EXPIRED);
    let open = StreamOpen {
        network: "peerkit".into(),
        proof: None,
        protocol: "peerkit-files/1".into(),
        token: None,
        membership: Some(Box::new(accepted())),
    };
    let mut out = Vec::new();
    open.encode(&mut out);
    vector("stream's opening, invited", &out, STREAM_OPEN_INVITED);
    assert_eq!(StreamOpen::decode(Bytes::from(out).slice(4..)).unwrap(), open);
}

#[test]
fn an_invite_has_the_documented_text() {
    let invite = Invite {
        key: invitation_key(),
        invitation: invitation(),
        network: "peerkit".into(),
        secret: Some(b"correct horse battery staple".to_vec()),
        addresses: vec!["192.0.2.7:7117".parse().unwrap()],
    };
    let documented = INVITE.replace(' ', "");
    assert_eq!(invite.to_string(), documented);
    assert_printed("invite", &documented);
    assert_eq!(INVITE.parse(), Ok(invite));
}

const ACCEPTED: &str = "\
    01ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1ca93ac17051870 \
    71d67b83c7ff0efe8108e8ec4530575d7726879333dbdabe7c8a88e3dd7409f195fd52db2d3cba5d \
    72ca6709bf1d94121bf3748801b40f6f5c0068e5cf8b01000000ecf1f38b01000001000000108696 \
    04595e8bd5db86c6432ce180db26967d32a524719470f0d0ca55005605d5bf21489c4dacf2e075b7 \
    aaa61bab5c66f40a54afb8dd01b7864c3cfbe3e5018139770ea87d175f56a35466c34c7ecccb8d8a \
    91b4ee37a25df60f5b8fc9b394ad0b6851bf026a8a4d1ea85a5a364247edb35ccd8509fff1a7303d \
    f13aa01fce759dff5003de87e8604443640b1a325aee115194a3538bf47fe31177f41f1b0ae5cef4 \
    31f5143de50737e8f8947cc14ac8b002b4aaf692fb4ffa84931b6f3c6d6e41e673159321ad9692f5 \
    9d91648034a9651a2be3641e09ccd68fa48a7abb0c";
const CERTIFICATE: &str = "\
    02ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d18139770ea87d17 \
    5f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b3948a88e3dd7409f195fd52db2d3cba5d \
    72ca6709bf1d94121bf3748801b40f6f5cca93ac1705187071d67b83c7ff0efe8108e8ec4530575d \
    7726879333dbdabe7c05000000000000000068e5cf8b010000009496279301000064f8fbaa84c38a \
    22f97b88c796a27e0248dd0d41d629b404b2f833abbfead3eb6e94323102a7350bcd6d27fd1074dc \
    1f0e880604b3a17182f9a26bc9a3796b07";
const DIGEST: &str = "\
    210000006285052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de5da67d86ca";
const MEMBERS: &str = "\
    dc00000063010002ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1 \
    8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b3948a88e3dd7409f195 \
    fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5cca93ac1705187071d67b83c7ff0efe81 \
    08e8ec4530575d7726879333dbdabe7c05000000000000000068e5cf8b0100000094962793010000 \
    64f8fbaa84c38a22f97b88c796a27e0248dd0d41d629b404b2f833abbfead3eb6e94323102a7350b \
    cd6d27fd1074dc1f0e880604b3a17182f9a26bc9a3796b07";
const REVOCATIONS: &str = "\
    8b000000640100ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d181 \
    39770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b3940068e5cf8b010000bc \
    3c1c9fd621ebc66a8f596303d8564f0c6075056e5207de759d9e5bac7dc38306b6cd6f2035a6cc8b \
    8cbbf71de69ad6a9847b30a4edb8d42c378553435eef04";
const HELLO_INVITED: &str = "\
    a701000001010001000700706565726b69740300616e6e0807060504030201000000000000000002 \
    000e003139322e302e322e373a3731313712005b323030313a6462383a3a375d3a37313137000100 \
    03005501000001ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1ca \
    93ac1705187071d67b83c7ff0efe8108e8ec4530575d7726879333dbdabe7c8a88e3dd7409f195fd \
    52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5cf8b01000000ecf1f38b01000001 \
    00000010869604595e8bd5db86c6432ce180db26967d32a524719470f0d0ca55005605d5bf21489c \
    4dacf2e075b7aaa61bab5c66f40a54afb8dd01b7864c3cfbe3e5018139770ea87d175f56a35466c3 \
    4c7ecccb8d8a91b4ee37a25df60f5b8fc9b394ad0b6851bf026a8a4d1ea85a5a364247edb35ccd85 \
    09fff1a7303df13aa01fce759dff5003de87e8604443640b1a325aee115194a3538bf47fe31177f4 \
    1f1b0ae5cef431f5143de50737e8f8947cc14ac8b002b4aaf692fb4ffa84931b6f3c6d6e41e67315 \
    9321ad9692f59d91648034a9651a2be3641e09ccd68fa48a7abb0c";
const GOODBYE_EXPIRED: &str = "\
    35000000021300280074686520696e7669746174696f6e206f72206d656d62657273686970206861 \
    7320657870697265640000000000000000";
const STREAM_OPEN_INVITED: &str = "\
    750100000700706565726b6974000f00706565726b69742d66696c65732f31005501000001ed4928 \
    c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1ca93ac1705187071d67b83 \
    c7ff0efe8108e8ec4530575d7726879333dbdabe7c8a88e3dd7409f195fd52db2d3cba5d72ca6709 \
    bf1d94121bf3748801b40f6f5c0068e5cf8b01000000ecf1f38b0100000100000010869604595e8b \
    d5db86c6432ce180db26967d32a524719470f0d0ca55005605d5bf21489c4dacf2e075b7aaa61bab \
    5c66f40a54afb8dd01b7864c3cfbe3e5018139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37 \
    a25df60f5b8fc9b394ad0b6851bf026a8a4d1ea85a5a364247edb35ccd8509fff1a7303df13aa01f \
    ce759dff5003de87e8604443640b1a325aee115194a3538bf47fe31177f41f1b0ae5cef431f5143d \
    e50737e8f8947cc14ac8b002b4aaf692fb4ffa84931b6f3c6d6e41e673159321ad9692f59d916480 \
    34a9651a2be3641e09ccd68fa48a7abb0c";
const INVITE: &str = "\
    peerkit-invite://192.0.2.7:7117/#aecaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaiba \
    eaqcaj3kjfddcruocy3vosazysbmzkyjjlettuxdd7e3dnqkgcswion6rzkj2yfyfdbyhdvt3qpd76dx \
    6qeeor3cfgblv25zgq6jthw62xz6ivchd3v2at4mv7vjnwlj4xjoxfsthbg7r3fasdpzxjcabwqhw6xa \
    ands47cybaaaab3hr6ofqcaaaaeaaaaaqq2laiwk6rpk5xbwgimwodag3e2lh2mvferyzi4hq2dffkac \
    waxk36ikitrg2z4xaow32vjq3vnogn5akksx3rxibw6deyph34psqcbyaobswk4tlnf2byaaaabrw64t \
    smvrxiidin5zhgzjamjqxi5dfoj4sa43umfygyzibaahaamjzgixdalrsfy3tunzrge3vyw2hwa";
