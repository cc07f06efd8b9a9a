use proptest::prelude::*;

use super::*;
use crate::invitation::roster::{Added, TooManyRevocations};

pub(crate) const NOW: u64 = 1_700_000_000_000;
const NET: &str = "net";

pub(crate) fn key(n: u8) -> Key {
    Key::from_secret(&[n; 32])
}

pub(crate) fn owner() -> Key {
    key(200)
}

fn id(n: u8) -> NodeId {
    key(n).id()
}

/// Returns an invite of the owner whose key is made from `n`.
pub(crate) fn invite(n: u8, uses: u32) -> Invite {
    let terms = InvitationTerms { inviter: id(1), issued: NOW, expires: NOW + 7 * DAY, uses };
    let invitation = Invitation::sign(&owner(), NET, id(n), terms);
    Invite {
        key: key(n),
        invitation,
        network: NET.into(),
        secret: Some(b"secret".to_vec()),
        addresses: vec!["127.0.0.1:7117".parse().unwrap(), "[::1]:7117".parse().unwrap()],
    }
}

fn roster() -> Roster {
    Roster::new(NET.into(), owner().id())
}

fn admit(roster: &mut Roster, proof: &MembershipProof) -> Result<bool, MembershipError> {
    roster.admit(proof.member(), Some(proof), NOW)
}

fn certificate(n: u8) -> MembershipProof {
    let by = (id(1), id(100));
    MembershipProof::Certificate(Certificate::sign(&owner(), NET, id(n), by, (NOW, 1)))
}

fn encoded(proof: &MembershipProof) -> Vec<u8> {
    let mut out = Vec::new();
    proof.encode(&mut out);
    out
}

fn decoded(bytes: &[u8]) -> Result<MembershipProof, DecodeError> {
    MembershipProof::decode(&mut Reader::new(bytes.to_vec().into()))
}

#[test]
fn an_accepted_invitation_makes_a_member() {
    let mut roster = roster();
    let proof = invite(100, 1).accept(&key(2));
    assert_eq!(admit(&mut roster, &proof), Ok(true));
    assert_eq!(admit(&mut roster, &proof), Ok(false), "known already");
    assert_eq!(roster.check_known(id(2), NOW), Ok(()));
    assert_eq!(roster.check_known(id(3), NOW), Err(MembershipError::Missing));
    assert_eq!(admit(&mut roster, &certificate(3)), Ok(true));
}

#[test]
fn proofs_of_other_nodes_networks_and_owners_are_refused() {
    let mut roster = roster();
    let proof = invite(100, 1).accept(&key(2));
    assert_eq!(roster.admit(id(3), Some(&proof), NOW), Err(MembershipError::OtherNode));
    assert_eq!(roster.admit(id(2), None, NOW), Err(MembershipError::Missing));
    let mut of_other = Roster::new(NET.into(), id(201));
    assert_eq!(admit(&mut of_other, &proof), Err(MembershipError::OtherOwner));
    let mut elsewhere = Roster::new("other".into(), owner().id());
    assert_eq!(admit(&mut elsewhere, &proof), Err(MembershipError::Forged));
    assert_eq!(admit(&mut elsewhere, &certificate(2)), Err(MembershipError::Forged));
    let late = roster.admit(id(2), Some(&proof), proof.expires());
    assert_eq!(late, Err(MembershipError::Expired));
    assert_eq!(roster.records().count(), 0);
}

#[test]
fn a_proof_with_one_changed_byte_is_refused() {
    for proof in [invite(100, 1).accept(&key(2)), certificate(2)] {
        let bytes = encoded(&proof);
        assert!(bytes.len() <= MAX_PROOF);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let Ok(changed) = decoded(&changed) else { continue };
            assert!(roster().admit(id(2), Some(&changed), NOW).is_err(), "byte {at}");
        }
    }
}

#[test]
fn the_holder_of_another_key_can_not_accept_an_invitation() {
    let mut stolen = invite(100, 1);
    stolen.key = key(101);
    assert_eq!(admit(&mut roster(), &stolen.accept(&key(2))), Err(MembershipError::Forged));
    // A member is no owner, so what it signs admits nobody else.
    let terms = InvitationTerms { inviter: id(2), issued: NOW, expires: NOW + DAY, uses: 1 };
    let mut own = Invitation::sign(&key(2), NET, id(101), terms);
    own.owner = owner().id();
    let proof = own.accept(&key(101), NET, &key(3));
    assert_eq!(admit(&mut roster(), &proof), Err(MembershipError::Forged));
    // The owner's signature does not help beyond the limits.
    let terms = InvitationTerms { expires: NOW + MAX_INVITATION_LIFE + 1, ..terms };
    let long = Invitation::sign(&owner(), NET, id(101), terms).accept(&key(101), NET, &key(3));
    assert_eq!(admit(&mut roster(), &long), Err(MembershipError::Forged));
}

/// The holder of an invite claims that other nodes came by it: a member by another invitation, and a newcomer.
#[test]
fn nobody_binds_another_node_to_an_invitation() {
    let mut roster = roster();
    let member = invite(100, 1).accept(&key(2));
    assert_eq!(admit(&mut roster, &member), Ok(true));
    let mine = invite(101, 1);
    // A later expiry would make the claim the better proof.
    let terms = InvitationTerms { inviter: id(1), issued: NOW, expires: NOW + 8 * DAY, uses: 1 };
    let mine = Invite { invitation: Invitation::sign(&owner(), NET, id(101), terms), ..mine };
    let MembershipProof::Invitation(accepted) = mine.accept(&key(2)) else { panic!() };
    let MembershipProof::Invitation(of_liar) = mine.accept(&key(3)) else { panic!() };
    let MembershipProof::Invitation(earlier) = member else { panic!() };
    for consent in [[0; 64], of_liar.consent, earlier.consent, accepted.signature] {
        let claim = MembershipProof::Invitation(Acceptance { consent, ..accepted.clone() });
        assert_eq!(roster.add(&claim, NOW), Added::Invalid(MembershipError::Forged));
    }
    assert_eq!(roster.record(id(2)).unwrap().invitation(), id(100));
    assert_eq!(roster.add(&MembershipProof::Invitation(accepted), NOW), Added::New, "consented");
}

/// Whichever proof of a member comes first, all nodes keep the same one.
#[test]
fn the_kept_proof_does_not_depend_on_the_order() {
    let certificate = |serial| {
        let by = (id(1), id(100));
        MembershipProof::Certificate(Certificate::sign(&owner(), NET, id(2), by, (NOW, serial)))
    };
    let proofs = [invite(100, 1).accept(&key(2)), invite(101, 1).accept(&key(2))];
    for pair in [proofs, [certificate(1), certificate(2)]] {
        let (mut a, mut b) = (roster(), roster());
        for (first, second) in pair.iter().zip(pair.iter().rev()) {
            a.add(first, NOW);
            b.add(second, NOW);
        }
        assert_eq!(a.digest(), b.digest());
    }
}

#[test]
fn an_invitation_is_used_up_after_its_uses() {
    let mut roster = roster();
    let invite = invite(100, 2);
    for n in 2..4 {
        assert_eq!(admit(&mut roster, &invite.accept(&key(n))), Ok(true));
    }
    assert_eq!(admit(&mut roster, &invite.accept(&key(4))), Err(MembershipError::UsedUp));
    assert_eq!(admit(&mut roster, &invite.accept(&key(3))), Ok(false));
    // A revoked member's use still counts.
    roster.revoke(&owner(), id(2), NOW).unwrap().unwrap();
    assert_eq!(admit(&mut roster, &invite.accept(&key(4))), Err(MembershipError::UsedUp));
    // Another member has admitted the node at the same moment.
    assert_eq!(roster.add(&invite.accept(&key(5)), NOW), Added::New);
    assert_eq!(roster.check_known(id(5), NOW), Ok(()));
    let more = (10..200).filter(|n| roster.add(&invite.accept(&key(*n)), NOW) == Added::New);
    assert_eq!(more.count() + 3, 2 + EXTRA_RECORDS);
}

#[test]
fn the_owner_certifies_as_many_nodes_as_an_invitation_has_uses() {
    let mut roster = roster();
    let invite = invite(100, 1);
    assert_eq!(admit(&mut roster, &invite.accept(&key(2))), Ok(true));
    let certified = roster.certify(&owner(), NOW, || 1);
    assert_eq!(certified.len(), 1);
    assert!(certified[0].is_certificate() && certified[0].member() == id(2));
    assert!(roster.certify(&owner(), NOW, || 2).is_empty(), "nothing is due");
    // A node that another part of the network has admitted comes too late.
    assert_eq!(roster.add(&invite.accept(&key(3)), NOW), Added::New);
    assert!(roster.certify(&owner(), NOW, || 2).is_empty());
    assert_eq!(roster.check_known(id(3), NOW), Err(MembershipError::UsedUp));
    // In its second half the certificate is renewed. The first proof never replaces it.
    let later = NOW + CERTIFICATE_LIFE / 2 + 1;
    assert_eq!(roster.certify(&owner(), later, || 3).len(), 1);
    assert_eq!(roster.add(&invite.accept(&key(2)), NOW), Added::Ignored);
    assert_eq!(roster.check_known(id(2), later + CERTIFICATE_LIFE - 1), Ok(()));
    assert_eq!(roster.check_known(id(2), later + CERTIFICATE_LIFE), Err(MembershipError::Expired));
}

/// Members forget expired records at different moments, so one that still passes them on is not at fault.
#[test]
fn a_membership_that_has_expired_is_neither_added_nor_certified() {
    let mut roster = roster();
    let proof = invite(100, 1).accept(&key(2));
    let expired = proof.expires();
    assert_eq!(roster.add(&proof, expired), Added::Ignored);
    assert_eq!(roster.add(&proof, expired - 1), Added::New);
    assert!(roster.certify(&owner(), expired, || 1).is_empty());
    assert_eq!(roster.check_known(id(2), expired), Err(MembershipError::Expired));
}

#[test]
fn a_revocation_hits_a_node_or_all_nodes_of_an_invitation() {
    let (mut at_owner, mut other) = (roster(), roster());
    let invite = invite(100, 3);
    for n in 2..4 {
        for roster in [&mut at_owner, &mut other] {
            assert_eq!(admit(roster, &invite.accept(&key(n))), Ok(true));
        }
    }
    at_owner.certify(&owner(), NOW, || 1);
    let target = id(2);
    let revoked = at_owner.revoke(&owner(), target, NOW).unwrap().unwrap();
    assert_eq!(at_owner.revoke(&owner(), target, NOW), Ok(None), "revoked already");
    assert_eq!(other.add_revocation(&revoked, NOW), Added::New);
    assert_eq!(other.add_revocation(&revoked, NOW), Added::Ignored);
    assert_eq!(other.check_known(id(2), NOW), Err(MembershipError::Revoked));
    assert_eq!(admit(&mut other, &certificate(2)), Err(MembershipError::Revoked));
    assert_eq!(other.check_known(id(3), NOW), Ok(()));
    let whole = id(100);
    let whole = at_owner.revoke(&owner(), whole, NOW).unwrap().unwrap();
    assert_eq!(other.add_revocation(&whole, NOW), Added::New);
    assert_eq!(admit(&mut other, &certificate(3)), Err(MembershipError::Revoked));
    assert_eq!(admit(&mut other, &invite.accept(&key(4))), Err(MembershipError::Revoked));
    assert_eq!(other.members().count(), 0);
    assert!(at_owner.certify(&owner(), NOW + CERTIFICATE_LIFE / 2 + 1, || 1).is_empty());
}

#[test]
fn a_revocation_outlives_what_it_revokes() {
    let mut roster = roster();
    let revoked = id(2);
    let revocation = roster.revoke(&owner(), revoked, NOW).unwrap().unwrap();
    let proof = certificate(2);
    assert!(!revocation.is_over(proof.expires()));
    roster.forget_expired(proof.expires());
    assert_eq!(roster.revocations().count(), 1);
    assert_eq!(roster.forget_expired(NOW + 2 * CERTIFICATE_LIFE), (vec![], vec![revoked]));
}

#[test]
fn forged_revocations_are_invalid_and_the_owner_makes_a_bounded_number() {
    let mut roster = roster();
    let target = id(2);
    let forged = Revocation::sign(&key(2), NET, target, NOW);
    let other = Added::Invalid(MembershipError::OtherOwner);
    assert_eq!(roster.add_revocation(&forged, NOW), other);
    let forged = Revocation { owner: owner().id(), ..forged };
    assert_eq!(roster.add_revocation(&forged, NOW), Added::Invalid(MembershipError::Forged));
    let elsewhere = Revocation::sign(&owner(), "other", target, NOW);
    assert_eq!(roster.add_revocation(&elsewhere, NOW), Added::Invalid(MembershipError::Forged));
    let mut full = None;
    for n in 0..=MAX_REVOCATIONS {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        let target = NodeId::from_bytes(bytes);
        if roster.revoke(&owner(), target, NOW) == Err(TooManyRevocations) {
            full = Some(n);
            break;
        }
    }
    assert_eq!(full, Some(MAX_REVOCATIONS / 2));
}

#[test]
fn rosters_with_the_same_content_have_the_same_digest() {
    let (mut a, mut b) = (roster(), roster());
    assert_eq!(a.digest(), b.digest());
    for n in 2..9 {
        a.add(&certificate(n), NOW);
        b.add(&certificate(10 - n), NOW);
    }
    assert_eq!(a.digest(), b.digest());
    let mut after = None;
    let mut seen = 0;
    while let Some(last) = a.records_after(after, 3).last() {
        seen += a.records_after(after, 3).len();
        after = Some(last.member());
    }
    assert_eq!(seen, 7);
}

#[test]
fn an_invite_is_read_back_and_shows_no_secret() {
    let invite = invite(100, 1);
    let text = invite.to_string();
    assert_eq!(text.parse(), Ok(invite.clone()));
    assert_eq!(text.to_uppercase().parse(), Ok(invite.clone()));
    let (wrapped, rest) = text.split_at(100);
    assert_eq!(format!(" <{wrapped}\n> {rest}>.").parse(), Ok(invite.clone()));
    assert!(text.starts_with("peerkit-invite://127.0.0.1:7117/#"), "{text}");
    let shown = format!("{invite:?}");
    assert!(!shown.contains("secret") && !shown.contains(&text[40..60]), "{shown}");
    let bare = Invite { secret: None, addresses: vec![], ..invite };
    assert_eq!(bare.to_string().parse(), Ok(bare));
}

#[test]
fn damaged_forged_and_later_invites_are_refused() {
    let read = |text: &str| text.parse::<Invite>();
    let text = invite(100, 1).to_string();
    assert_eq!(read("peerkit1abc"), Err(InviteError::NotAnInvite));
    assert_eq!(read(&text[..text.len() - 1]), Err(InviteError::Damaged));
    assert_eq!(read("peerkit-invite://join/"), Err(InviteError::Damaged));
    let long = format!("{text}{}", "a".repeat(link::MAX_INVITE));
    assert_eq!(read(&long), Err(InviteError::Damaged));
    let mut forged = invite(100, 1);
    forged.invitation.uses = 2;
    assert_eq!(read(&forged.to_string()), Err(InviteError::Forged));
    let mut other_key = invite(100, 1);
    other_key.key = key(101);
    assert_eq!(read(&other_key.to_string()), Err(InviteError::Forged));
    let code = |body: &[u8]| {
        let mut body = body.to_vec();
        let check = blake3::hash(&body);
        body.put_raw(&check.as_bytes()[..4]);
        format!("{}join/#{}", link::PREFIX, data_encoding::BASE32_NOPAD.encode(&body))
    };
    assert_eq!(read(&code(&[2, 0])), Err(InviteError::Version(2)));
    assert!(matches!(read(&code(&[1, 0])), Err(InviteError::Decode(_))));
}

#[test]
fn codes_and_texts_of_errors_are_read_back() {
    for code in 0..=u8::MAX {
        let Some(error) = MembershipError::from_code(code) else { continue };
        assert_eq!(error.code(), code);
        assert_eq!(MembershipError::from_text(&error.to_string()), Some(error));
    }
    assert_eq!(MembershipError::from_code(8), None);
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>, text in ".{0,80}") {
        if let Ok(proof) = decoded(&bytes) {
            let again = encoded(&proof);
            prop_assert_eq!(&again[..], &bytes[..again.len()]);
        }
        let _ = Revocation::decode(&mut Reader::new(bytes.into()));
        let _ = text.parse::<Invite>();
        let _ = format!("{}join/#{text}", link::PREFIX).parse::<Invite>();
    }

    #[test]
    fn a_roster_only_grows_and_revocations_are_final(steps in prop::collection::vec((0_u8..6, 2_u8..12), 0..40)) {
        let mut roster = roster();
        let mut revoked = std::collections::BTreeSet::new();
        for (step, n) in steps {
            let invite = invite(100 + n % 3, 2);
            let records = roster.records().count();
            match step {
                0 => drop(admit(&mut roster, &invite.accept(&key(n)))),
                1 => drop(roster.add(&invite.accept(&key(n)), NOW)),
                2 => drop(roster.add(&certificate(n), NOW)),
                3 => drop(roster.certify(&owner(), NOW, || 1)),
                4 => drop(roster.forget_expired(NOW)),
                _ => {
                    let target = id(n);
                    let _ = roster.revoke(&owner(), target, NOW);
                    revoked.insert(id(n));
                }
            }
            prop_assert!(roster.records().count() >= records);
            prop_assert!(roster.members().all(|proof| !revoked.contains(&proof.member())));
            for id in &revoked {
                prop_assert_eq!(roster.check_known(*id, NOW), Err(MembershipError::Revoked));
            }
        }
    }
}
