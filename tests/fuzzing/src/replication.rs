//! What slaves say to each other. Its code is not the only one that its decoder takes (integers may be longer than they need be), but what
//! was decoded has one code, which decodes to the same.

use rum_slave::group::{image::DirectoryImage, message::PeerMessage};

pub fn peer_message(bytes: &[u8]) {
    PeerMessage::decode_all(bytes, &mut |message| {
        let once = message.encode();
        drop(message);
        let mut count = 0;
        let is_whole = PeerMessage::decode_all(&once, &mut |message| {
            assert_eq!(message.encode(), once);
            count += 1;
        });
        assert!(is_whole && count == 1, "{once:?}");
    });
}

pub fn directory_image(bytes: &[u8]) {
    let Ok(image) = postcard::from_bytes::<DirectoryImage>(bytes) else { return };
    let once = postcard::to_stdvec(&image).expect("postcard knows all of its types");
    drop(image);
    let image: DirectoryImage = postcard::from_bytes(&once).expect("what was encoded");
    assert_eq!(postcard::to_stdvec(&image), Ok(once));
}
