//! What one side encodes the other decodes alike; bytes that nobody encoded are refused, never a panic.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    PAGE_BYTES,
    port::page::Page,
    rpc::{Incarnation, Response},
};

fn extent() -> impl Strategy<Value = ExtentRef> {
    any::<(u32, u32)>().prop_map(|(index, generation)| ExtentRef { index, generation })
}

fn page() -> impl Strategy<Value = PageRef> {
    (extent(), any::<u32>()).prop_map(|(extent, page)| PageRef { extent, page })
}

/// A page's content: `None` for zeros, else a page filled with the byte.
fn contents(len: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<Option<u8>>> {
    vec(any::<Option<u8>>(), len)
}

fn kind(content: Option<u8>) -> PageKind {
    if content.is_some() { PageKind::Data } else { PageKind::Zeros }
}

fn write_request(pages: &[(PageRef, Option<u8>)]) -> Vec<u8> {
    let kinds: Vec<_> = pages.iter().map(|&(page, content)| (page, kind(content))).collect();
    let mut message = encode_write_head(&kinds, &mut [0; WRITE_HEAD_MAX_BYTES]).to_vec();
    for fill in pages.iter().filter_map(|&(_, content)| content) {
        message.extend_from_slice(&[fill; PAGE_BYTES]);
    }
    message
}

/// Every request once, with arbitrary fields.
fn request() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(encode_stat(&mut [0; 4]).to_vec()),
        Just(encode_renew(&mut [0; 4]).to_vec()),
        Just(encode_bye(&mut [0; 4]).to_vec()),
        (1..=MAX_BATCH_EXTENTS).prop_map(|count| encode_reserve(count, &mut [0; RESERVE_REQUEST_BYTES]).to_vec()),
        vec(extent(), 1..40).prop_map(|extents| encode_release(
            &extents,
            &mut vec![0; release_request_bytes(extents.len())]
        )
        .to_vec()),
        vec(page(), 1..=MAX_BATCH_PAGES)
            .prop_map(|pages| encode_read(&pages, &mut [0; READ_REQUEST_MAX_BYTES]).to_vec()),
        vec((page(), any::<Option<u8>>()), 1..=4).prop_map(|pages| write_request(&pages)),
        any::<(NameHash, Option<u64>)>().prop_map(|(hash, size)| {
            let create_bytes = size.map(|bytes| bytes.max(1));
            OpenName { hash, create_bytes }.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]).to_vec()
        }),
        any::<(NameHash, u32)>().prop_map(|(hash, from)| encode_name_extents(
            &hash,
            from,
            &mut [0; NAME_EXTENTS_REQUEST_BYTES]
        )
        .to_vec()),
        any::<NameHash>().prop_map(|hash| encode_free_name(&hash, &mut [0; FREE_NAME_REQUEST_BYTES]).to_vec()),
        any::<Option<NameHash>>()
            .prop_map(|after| encode_names(after.as_ref(), &mut [0; NAMES_REQUEST_BYTES]).to_vec()),
    ]
}

/// Every message that ends with bytes that are not looked at: its head and those.
fn envelope() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let ask = (any::<u16>(), any::<bool>(), request()).prop_map(|(group, of_any, request)| {
        (if of_any { ask_any_head(group) } else { ask_head(group) }.to_vec(), request)
    });
    let command = (any::<u16>(), counts(), request())
        .prop_map(|(group, (sequence, settled), request)| (command_head(group, sequence, settled).to_vec(), request));
    let peer = (any::<u16>(), vec(any::<u8>(), 0..200)).prop_map(|(sender, bytes)| (peer_head(sender).to_vec(), bytes));
    prop_oneof![ask, command, peer]
}

/// A command's sequence and settled.
fn counts() -> impl Strategy<Value = (u64, u64)> {
    (1..=u64::MAX).prop_flat_map(|sequence| (Just(sequence), 0..sequence))
}

type Check = dyn Fn(&[u8]) -> bool;

/// Whether the bytes are a response to what was asked.
struct Decodes(Box<Check>);

impl std::fmt::Debug for Decodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a decoder")
    }
}

/// Every response once, with arbitrary fields, and how it is read.
fn response() -> impl Strategy<Value = (Vec<u8>, Decodes)> {
    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut response = Vec::new();
        encode(&mut response);
        response
    }
    let stat = any::<(u128, [u64; 4], u64)>().prop_map(|(incarnation, counts, lease_ms)| {
        let [capacity_extents, reserved_extents, used_pages, sessions] = counts;
        let (incarnation, lease) = (Incarnation(incarnation), Duration::from_millis(lease_ms));
        let stat = Stat { incarnation, capacity_extents, reserved_extents, used_pages, sessions, lease };
        let decodes = Decodes(Box::new(|bytes| Stat::decode_response(bytes).is_ok()));
        (encoded(|response| stat.encode_response(response)), decodes)
    });
    let extents = vec(extent(), 0..40).prop_map(|extents| {
        let count = extents.len();
        let decodes = Decodes(Box::new(move |bytes| {
            decode_reserve_response(bytes, count).is_ok() && decode_name_extents_response(bytes).is_ok()
        }));
        (encoded(|response| encode_extents_response(&extents, response)), decodes)
    });
    let read = contents(1..=4).prop_map(|contents| {
        let count = contents.len();
        let decodes = Decodes(Box::new(move |bytes| ReadResponse::decode(bytes, count).is_ok()));
        (read_response(&contents), decodes)
    });
    let opened = (any::<(u64, bool)>(), vec(extent(), 0..10)).prop_map(|((size, existed), extents)| {
        let decodes = Decodes(Box::new(|bytes| OpenedName::decode_response(bytes).is_ok()));
        (encoded(|response| encode_open_name_response(size, existed, &extents, response)), decodes)
    });
    let differs = any::<u64>().prop_map(|size| {
        let is_refusal =
            |bytes: &[u8]| matches!(OpenedName::decode_response(bytes), Err(OpenNameRefusal::SizeDiffers { .. }));
        let decodes = Decodes(Box::new(is_refusal));
        (encoded(|response| encode_size_differs(size, response)), decodes)
    });
    let empty = Just(()).prop_map(|()| {
        let decodes = Decodes(Box::new(|bytes| decode_empty_response(bytes).is_ok()));
        (encoded(|response| encode_status(Status::Ok, response)), decodes)
    });
    let elsewhere = any::<Option<u16>>().prop_map(|leader| {
        let decodes = Decodes(Box::new(|bytes| decode_not_leader(bytes).is_some()));
        (encoded(|response| encode_not_leader(leader, response)), decodes)
    });
    let names = prop::collection::btree_map(any::<NameHash>(), any::<u64>(), 0..10).prop_map(|names| {
        let names: Vec<_> = names.into_iter().collect();
        let decodes = Decodes(Box::new(|bytes| decode_names_response(bytes).is_ok()));
        (encoded(|response| encode_names_response(&names, response)), decodes)
    });
    prop_oneof![stat, extents, read, opened, differs, empty, elsewhere, names]
}

/// Runs every decoder over `bytes`; they may say what they like, but must return.
fn decode_all(bytes: &[u8]) {
    if let Ok(Request::Write(write)) = Request::decode(bytes) {
        write.iter().for_each(drop);
    }
    for count in [0, 1, 5, 32, 33, usize::MAX] {
        if let Ok(read) = ReadResponse::decode(bytes, count) {
            read.iter().for_each(drop);
        }
        let _ = ReadResponseHead::decode(bytes, count).map(|head| (head.offset(31), head.response_bytes()));
        let _ = decode_reserve_response(bytes, count).map(|extents| extents.iter().count());
    }
    let _ = Stat::decode_response(bytes);
    let _ = OpenedName::decode_response(bytes).map(|opened| opened.extents.iter().count());
    let _ = decode_name_extents_response(bytes).map(|extents| extents.iter().count());
    let _ = (decode_empty_response(bytes), decode_names_response(bytes));
    let _ = (decode_not_leader(bytes), decode_peer_response(bytes));
}

/// A response that holds pages filled with one byte each; `None` is one of zeros.
fn read_response(contents: &[Option<u8>]) -> Vec<u8> {
    let mut response = Response::default();
    let mut writer = ReadResponseWriter::new(&mut response);
    for content in contents {
        writer.push(content.map(|fill| Page::copy_of(&[fill; PAGE_BYTES])));
    }
    response.to_vec()
}

proptest! {
    #[test]
    fn read_request_roundtrip(pages in vec(page(), 1..=MAX_BATCH_PAGES)) {
        let mut buffer = [0; READ_REQUEST_MAX_BYTES];
        let message = encode_read(&pages, &mut buffer);
        let Request::Read(list) = Request::decode(message).unwrap() else { panic!("not a read") };
        prop_assert_eq!(list.iter().collect::<Vec<_>>(), pages);
    }

    #[test]
    fn read_response_roundtrip(contents in contents(1..=MAX_BATCH_PAGES)) {
        let response = read_response(&contents);
        let head = ReadResponseHead::decode(&response[..READ_RESPONSE_HEAD_BYTES], contents.len()).unwrap();
        prop_assert_eq!(head.response_bytes(), response.len());
        let read = ReadResponse::decode(&response, contents.len()).unwrap();
        prop_assert_eq!(read.iter().len(), contents.len());
        for (i, (content, page)) in contents.iter().zip(read.iter()).enumerate() {
            prop_assert_eq!(head.kind(i), kind(*content));
            let by_offset = head.offset(i).map(|at| &response[at..at + PAGE_BYTES]);
            match content {
                Some(fill) => {
                    prop_assert_eq!(page, PageContent::Data(&[*fill; PAGE_BYTES]));
                    prop_assert_eq!(by_offset, Some(&[*fill; PAGE_BYTES][..]));
                }
                None => {
                    prop_assert_eq!(page, PageContent::Zeros);
                    prop_assert_eq!(by_offset, None);
                }
            }
        }
    }

    #[test]
    fn write_request_roundtrip(pages in vec((page(), any::<Option<u8>>()), 1..=MAX_BATCH_PAGES)) {
        let message = write_request(&pages);
        let Request::Write(write) = Request::decode(&message).unwrap() else { panic!("not a write") };
        prop_assert_eq!(write.pages().len(), pages.len());
        let decoded: Vec<_> = write
            .iter()
            .map(|(page, content)| match content {
                PageContent::Zeros => (page, None),
                PageContent::Data(bytes) => {
                    assert!(bytes.len() == PAGE_BYTES && bytes.iter().all(|&byte| byte == bytes[0]));
                    (page, Some(bytes[0]))
                }
            })
            .collect();
        prop_assert_eq!(decoded, pages);
    }

    #[test]
    fn extents_roundtrip(extents in vec(extent(), 1..200)) {
        let mut buffer = vec![0; release_request_bytes(extents.len())];
        let Request::Release(list) = Request::decode(encode_release(&extents, &mut buffer)).unwrap() else {
            panic!("not a release")
        };
        prop_assert_eq!(list.iter().collect::<Vec<_>>(), extents.clone());

        let mut response = Vec::new();
        encode_extents_response(&extents, &mut response);
        let list = decode_reserve_response(&response, extents.len()).unwrap();
        prop_assert_eq!(list.iter().collect::<Vec<_>>(), extents.clone());
        prop_assert!(decode_reserve_response(&response, extents.len() + 1).is_err());
        let list = decode_name_extents_response(&response).unwrap();
        prop_assert_eq!(list.iter().collect::<Vec<_>>(), extents);
    }

    #[test]
    fn names_roundtrip(hash: NameHash, from: u32, size in 1..u64::MAX, create: bool) {
        let open = OpenName { hash, create_bytes: create.then_some(size) };
        let message = open.encode(&mut [0; OPEN_NAME_REQUEST_BYTES]).to_vec();
        prop_assert_eq!(Request::decode(&message), Ok(Request::OpenName(open)));
        let message = encode_name_extents(&hash, from, &mut [0; NAME_EXTENTS_REQUEST_BYTES]).to_vec();
        prop_assert_eq!(Request::decode(&message), Ok(Request::NameExtents { hash, from }));
        let message = encode_free_name(&hash, &mut [0; FREE_NAME_REQUEST_BYTES]).to_vec();
        prop_assert_eq!(Request::decode(&message), Ok(Request::FreeName { hash }));
    }

    #[test]
    fn opened_name_roundtrip(size: u64, existed: bool, extents in vec(extent(), 0..10)) {
        let mut response = Vec::new();
        encode_open_name_response(size, existed, &extents, &mut response);
        let opened = OpenedName::decode_response(&response).unwrap();
        prop_assert_eq!((opened.size_bytes, opened.existed), (size, existed));
        prop_assert_eq!(opened.total_extents as usize, extents.len());
        prop_assert_eq!(opened.extents.iter().collect::<Vec<_>>(), extents);

        response.clear();
        encode_size_differs(size, &mut response);
        let refusal = OpenedName::decode_response(&response).unwrap_err();
        prop_assert_eq!(refusal, OpenNameRefusal::SizeDiffers { existing_bytes: size });
    }

    #[test]
    fn stat_roundtrip(incarnation: u128, counts: [u64; 4], lease_ms: u64) {
        let [capacity_extents, reserved_extents, used_pages, sessions] = counts;
        let lease = Duration::from_millis(lease_ms);
        let incarnation = Incarnation(incarnation);
        let stat = Stat { incarnation, capacity_extents, reserved_extents, used_pages, sessions, lease };
        let mut response = Vec::new();
        stat.encode_response(&mut response);
        prop_assert_eq!(response.len(), STAT_RESPONSE_BYTES);
        prop_assert_eq!(Stat::decode_response(&response), Ok(stat));
    }

    #[test]
    fn envelopes_roundtrip(group: u16, (sequence, settled) in counts(), request in request()) {
        let message = [&ask_head(group)[..], &request].concat();
        prop_assert_eq!(Request::decode(&message), Ok(Request::Ask { group, of_any: false, request: &request }));
        let message = [&command_head(group, sequence, settled)[..], &request].concat();
        let command = Command { group, sequence, settled, request: &request };
        prop_assert_eq!(Request::decode(&message), Ok(Request::Command(command)));
        prop_assert!(Request::decode(&command_head(group, sequence, sequence)).is_err());
    }

    #[test]
    fn peer_roundtrip(sender: u16, messages in vec(any::<u8>(), 0..200)) {
        let message = [&peer_head(sender)[..], &messages].concat();
        prop_assert_eq!(Request::decode(&message), Ok(Request::Peer { sender, messages: &messages }));
        let mut response = Vec::new();
        encode_status(Status::Ok, &mut response);
        response.extend_from_slice(&messages);
        prop_assert_eq!(decode_peer_response(&response), Ok(&messages[..]));
        prop_assert!(decode_peer_response(&response[..RESPONSE_HEAD_BYTES - 1]).is_err());
        response[7] = 1;
        prop_assert!(decode_peer_response(&response).is_err());
    }

    #[test]
    fn not_leader_roundtrip(leader in 0..u16::MAX) {
        for leader in [Some(leader), None] {
            let mut response = Vec::new();
            encode_not_leader(leader, &mut response);
            prop_assert_eq!(decode_not_leader(&response), Some(leader));
            response[10] = 1;
            prop_assert_eq!(decode_not_leader(&response), None);
        }
    }

    /// A message in an envelope may have any length; the envelope has its own.
    #[test]
    fn an_envelope_that_is_cut_is_refused((head, rest) in envelope(), cut in 1..=COMMAND_HEAD_BYTES) {
        let message = [&head[..], &rest].concat();
        prop_assert!(Request::decode(&message).is_ok());
        prop_assert!(Request::decode(&head).is_ok());
        let error = Request::decode(&head[..head.len().saturating_sub(cut)]).map_err(RequestError::status);
        prop_assert_eq!(error, Err(Status::Malformed));
    }

    #[test]
    fn a_reserved_byte_of_an_envelope_is_refused((mut head, rest) in envelope(), value in 1..=255u8) {
        // An Ask's is a flag.
        head[1] = if head[0] == Opcode::Ask as u8 { value.max(2) } else { value };
        let message = [head, rest].concat();
        prop_assert_eq!(Request::decode(&message).map_err(RequestError::status), Err(Status::Malformed));
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..600)) {
        decode_all(&bytes);
    }

    /// Garbage behind a good opcode or status gets further into the decoders than garbage alone.
    #[test]
    fn garbage_behind_a_good_head_never_panics(first in 0..=Opcode::ALL.len() as u8 + 1, count in 0..=33u8, bytes in vec(0..=2u8, 0..600)) {
        let mut message = vec![first, 0, 0, 0, count, 0, 0, 0];
        message.extend_from_slice(&bytes);
        decode_all(&message);
        message[4] = 0;
        decode_all(&message);
    }

    /// A request is refused when a byte is missing or one too many.
    #[test]
    fn a_wrong_length_is_refused(mut message in request(), cut in 1..5000usize, more: u8) {
        prop_assert!(Request::decode(&message).is_ok());
        let short = message.len().saturating_sub(cut);
        prop_assert!(Request::decode(&message[..short]).is_err());
        message.push(more);
        prop_assert!(Request::decode(&message).is_err());
    }

    /// So is a response, by whichever decoder reads it.
    #[test]
    fn a_response_of_a_wrong_length_is_refused((mut response, Decodes(decodes)) in response(), cut in 1..5000usize, more: u8) {
        prop_assert!(decodes(&response));
        let short = response.len().saturating_sub(cut);
        prop_assert!(!decodes(&response[..short]));
        response.push(more);
        prop_assert!(!decodes(&response));
    }

    #[test]
    fn a_reserved_byte_of_a_response_is_refused((mut response, Decodes(decodes)) in response(), at in 1..8usize, value in 1..=255u8) {
        response[at] = value;
        prop_assert!(!decodes(&response));
    }

    #[test]
    fn a_reserved_byte_is_refused(mut message in request(), at in 1..4usize, value in 1..=255u8) {
        message[at] = value;
        prop_assert_eq!(Request::decode(&message).map_err(RequestError::status), Err(Status::Malformed));
    }
}

#[test]
fn requests_of_no_fields_decode() {
    for opcode in [Opcode::Stat, Opcode::Renew, Opcode::Bye] {
        assert_eq!(Request::decode(&[opcode as u8, 0, 0, 0]).map(|request| request.opcode()), Ok(opcode));
    }
}

#[test]
fn numbers_are_as_the_table_says() {
    assert_eq!(Opcode::ALL.map(|opcode| opcode as u8), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(Status::ALL.map(|status| status as u8), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    let page = PageRef { extent: ExtentRef { index: 1, generation: 2 }, page: 3 };
    let mut buffer = [0xff; READ_REQUEST_MAX_BYTES];
    assert_eq!(encode_read(&[page], &mut buffer), [4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(READ_RESPONSE_HEAD_BYTES, 40);
    assert_eq!(ask_head(0x102), [12, 0, 2, 1]);
    assert_eq!(ask_any_head(0x102), [12, 1, 2, 1]);
    assert_eq!(command_head(3, 0x104, 5), [11, 0, 3, 0, 4, 1, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(peer_head(0x102), [13, 0, 2, 1]);
    let mut response = Vec::new();
    encode_not_leader(Some(0x102), &mut response);
    encode_not_leader(None, &mut response);
    let expected =
        [[10, 0, 0, 0, 0, 0, 0, 0], [2, 1, 0, 0, 0, 0, 0, 0], [10, 0, 0, 0, 0, 0, 0, 0], [255, 255, 0, 0, 0, 0, 0, 0]];
    assert_eq!(response, expected.concat());
}

#[test]
fn the_largest_messages_fit() {
    const MAX: usize = crate::rpc::MAX_MESSAGE_BYTES;
    const { assert!(WRITE_HEAD_MAX_BYTES + MAX_BATCH_PAGES * PAGE_BYTES <= MAX) };
    const { assert!(READ_RESPONSE_HEAD_BYTES + MAX_BATCH_PAGES * PAGE_BYTES <= MAX) };
    const { assert!(COMMAND_HEAD_BYTES + WRITE_HEAD_MAX_BYTES + MAX_BATCH_PAGES * PAGE_BYTES <= MAX) };
    const { assert!(COMMAND_HEAD_BYTES + release_request_bytes(MAX_BATCH_EXTENTS) <= MAX) };
}

#[test]
fn counts_out_of_range_are_refused() {
    for (opcode, count) in [(2, 0), (2, 4097), (3, 0), (3, 4097), (4, 0), (4, 33), (5, 0), (5, 33), (2, u32::MAX)] {
        let mut message = vec![opcode, 0, 0, 0];
        message.extend_from_slice(&u32::to_le_bytes(count));
        message.resize(200_000, 0);
        assert_eq!(Request::decode(&message), Err(Malformed("count out of range").into()), "opcode {opcode}");
    }
}

#[test]
fn unknown_opcodes_are_unsupported() {
    for opcode in [0, Opcode::ALL.len() as u8 + 1, 255] {
        assert_eq!(Request::decode(&[opcode, 0, 0, 0]).map_err(RequestError::status), Err(Status::Unsupported));
    }
    assert_eq!(Request::decode(&[]).map_err(RequestError::status), Err(Status::Malformed));
}

#[test]
fn kinds_are_checked() {
    let page = PageRef::default();
    let good = encode_write_head(&[(page, PageKind::Zeros)], &mut [0; WRITE_HEAD_MAX_BYTES]).to_vec();
    assert!(Request::decode(&good).is_ok());
    let kinds_at = 8 + PAGE_REF_BYTES;
    for (at, value) in [(0, 2), (0, 1), (1, 1), (31, 1), (31, 2)] {
        let mut bad = good.clone();
        bad[kinds_at + at] = value;
        assert!(Request::decode(&bad).is_err(), "kind {value} at {at}");
    }
}

#[test]
fn a_refusal_needs_its_head_only() {
    let mut response = Vec::new();
    encode_status(Status::StaleExtent, &mut response);
    assert_eq!(response.len(), RESPONSE_HEAD_BYTES);
    let refused = ResponseError::Refused(Status::StaleExtent);
    assert_eq!(ReadResponseHead::decode(&response, 3), Err(refused));
    assert_eq!(ReadResponse::decode(&response, 3), Err(refused));
    assert_eq!(decode_empty_response(&response), Err(refused));
    assert_eq!(OpenedName::decode_response(&response), Err(OpenNameRefusal::Response(refused)));
    assert_eq!(decode_peer_response(&response), Err(refused));
}
