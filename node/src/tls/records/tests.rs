//! Tests of our own record layer that do not apply to tokio-rustls.

use peerkit_proto::tls::record_header;
use rustls::AlertDescription;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsStream;

use super::handshake::TakeOverError;
use super::outgoing::RecordSealError;
use super::*;
use crate::tls::ChannelPurpose;
use crate::tls::tests::{channels, dialled_rustls, expect_bytes, tcp_pair, tls, write_flushed};

#[tokio::test]
async fn the_end_of_the_handshake_goes_out_with_the_first_data() {
    let (dialled, accepted) = tcp_pair().await;
    let (ours, theirs) = (tls(1), tls(2));
    let mut accepting = Box::pin(theirs.accept(accepted));
    let mut ours = tokio::select! {
        ours = ours.dial(dialled, ChannelPurpose::Link, None) => ours.unwrap(),
        _ = &mut accepting => unreachable!("the dialling side has not finished"),
    };
    // The end of the handshake has not been sent, so the other side can't finish.
    let moment = std::time::Duration::from_millis(50);
    assert!(
        tokio::time::timeout(moment, &mut accepting).await.is_err(),
        "the end of the handshake was sent"
    );
    ours.write_all(b"ab").await.unwrap();
    let mut theirs = accepting.await.unwrap();
    expect_bytes(&mut theirs, b"ab").await;
}

#[tokio::test]
async fn a_channel_is_unusable_after_a_sealing_error() {
    let (mut ours, mut theirs) = channels().await;
    write_flushed(&mut ours, b"abc").await;
    // The key may seal no more records. So the channel can't change the key either, because the old key would
    // have to seal the record that announces the new one.
    ours.limit_records(0);
    let assert_sealing_failed = |error: io::Error| {
        assert!(error.get_ref().is_some_and(|error| error.is::<RecordSealError>()), "{error}");
    };
    assert_sealing_failed(ours.write(b"def").await.unwrap_err());
    // The channel stays unusable even if the key may seal records again.
    ours.limit_records(1000);
    assert_sealing_failed(ours.write(b"def").await.unwrap_err());
    assert_sealing_failed(ours.flush().await.unwrap_err());
    assert_sealing_failed(ours.shutdown().await.unwrap_err());
    write_flushed(&mut theirs, b"abc").await;
    assert_sealing_failed(ours.read(&mut [0; 9]).await.unwrap_err());
    drop(ours);
    expect_bytes(&mut theirs, b"abc").await;
    let error = theirs.read(&mut [0; 9]).await.unwrap_err();
    assert_ne!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[tokio::test]
async fn a_session_that_has_protected_records_already_is_refused() {
    let (dialled, accepted) = tcp_pair().await;
    let (ours, mut theirs) = (tls(1), tls(2));
    // rustls sends a session ticket in the first record under the key of the session.
    theirs.server.send_tls13_tickets = 1;
    let (_, accepted) = tokio::join!(
        async {
            let mut ours = ours.dial(dialled, ChannelPurpose::Link, None).await.unwrap();
            ours.flush().await.unwrap();
        },
        theirs.accept(accepted),
    );
    let error = accepted.unwrap_err();
    assert!(error.get_ref().is_some_and(|error| error.is::<TakeOverError>()), "{error}");
}

#[tokio::test]
async fn a_forged_record_ends_the_session_and_is_reported_to_the_peer() {
    let (mut ours, theirs) = dialled_rustls().await;
    let (mut tcp, session) = match theirs {
        TlsStream::Server(end) => end.into_inner(),
        TlsStream::Client(_) => unreachable!("rustls has accepted the connection"),
    };
    // A record with 3 bytes of content has 17 bytes more, for its content type and the authentication tag.
    let mut forged = record_header(3).to_vec();
    forged.extend_from_slice(&[7; 20]);
    tcp.write_all(&forged).await.unwrap();
    let error = ours.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains("wrong authentication tag"), "{error}");
    let again = ours.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    assert_eq!(ours.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let mut session = session;
    let mut alert = [0; 100];
    let len = tcp.read(&mut alert).await.unwrap();
    session.read_tls(&mut &alert[..len]).unwrap();
    let error = session.process_new_packets().unwrap_err();
    assert_eq!(error, rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
}

#[tokio::test]
async fn bytes_before_a_forged_record_are_read_first() {
    let (mut ours, mut theirs) = dialled_rustls().await;
    theirs.write_all(b"abc").await.unwrap();
    theirs.flush().await.unwrap();
    // The header of a record of application data (23) with a length of 1. The version is ignored.
    theirs.get_mut().0.write_all(&[23, 9, 9, 0, 1]).await.unwrap();
    expect_bytes(&mut ours, b"abc").await;
    let error = ours.read(&mut [0; 9]).await.unwrap_err();
    assert!(error.to_string().contains("too short"), "{error}");
}

#[tokio::test]
async fn no_byte_of_a_forged_record_is_read_into_a_small_buffer() {
    let (mut ours, mut theirs) = dialled_rustls().await;
    let forged = [&record_header(300)[..], &[7; 317]].concat();
    theirs.get_mut().0.write_all(&forged).await.unwrap();
    for _ in 0..2 {
        let error = ours.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}
