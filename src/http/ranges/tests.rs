//! Tests of range plans and multipart framing; pure, no server is started.

use std::ops::Range;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderValue, RANGE};
use proptest::prelude::*;

use super::{
    MAX_RANGES, PART_OVERHEAD_BYTES, RangePlan, coalesce, content_range, multipart, plan, satisfiable,
    unsatisfied_range,
};
use RangePlan::{Multi, Single, Unsatisfiable, Whole};

const LEN: u64 = 10_000;

fn map(lines: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(RANGE, HeaderValue::from_bytes(line).expect("a header value"));
    }
    headers
}

fn of(value: &str, len: u64) -> RangePlan {
    plan(&map(&[value.as_bytes()]), len)
}

#[test]
fn absent_header_is_whole() {
    assert_eq!(plan(&HeaderMap::new(), LEN), Whole);
    assert_eq!(plan(&HeaderMap::new(), 0), Whole);
}

#[test]
fn one_range_is_single_with_exact_bounds() {
    assert_eq!(of("bytes=0-0", LEN), Single(0..1));
    assert_eq!(of("bytes=5-", LEN), Single(5..LEN));
    assert_eq!(of("bytes=-5", LEN), Single(LEN - 5..LEN));
    assert_eq!(of("bytes=0-", LEN), Single(0..LEN));
    assert_eq!(of("bytes=0-999999999", LEN), Single(0..LEN));
    assert_eq!(of("bytes=9999-9999", LEN), Single(9999..LEN));
    assert_eq!(of("bytes=007-0008", LEN), Single(7..9));
}

#[test]
fn unit_is_case_insensitive_and_blanks_in_the_list_are_fine() {
    assert_eq!(of("BYTES=0-0", LEN), Single(0..1));
    assert_eq!(of("bYtes= 0-0 ,\t, ", LEN), Single(0..1));
    assert_eq!(of("bytes=,0-0", LEN), Single(0..1));
}

#[test]
fn malformed_header_is_ignored() {
    let malformed = [
        "bytes=10-5",
        "bytes=abc",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=--1",
        "bytes=0-1;x",
        "bytes=1",
        "bytes=+0-1",
        "bytes=0-+1",
        "bytes=0 - 1",
        "bytes=0-1-2",
        "bytes=0-1 2-3",
        "bytes=0x0-1",
        "bytes=0-a",
        "bytes=-1a",
        "bytes",
        "bytes:0-1",
        "bytes =0-1",
        "items=0-1",
        "kilobytes=0-1",
        "0-1",
        "",
        "bytes=0-1,5-3",
        "bytes=0-1,x",
        "bytes=é-",
        "bytes=0-1,items=2-3",
    ];
    for value in malformed {
        assert_eq!(of(value, LEN), Whole, "{value}");
        assert_eq!(of(value, 0), Whole, "{value}");
    }
}

#[test]
fn several_range_lines_are_ignored() {
    assert_eq!(plan(&map(&[b"bytes=0-1", b"bytes=0-1"]), LEN), Whole);
}

#[test]
fn range_past_end_is_unsatisfiable() {
    assert_eq!(of("bytes=10000-", LEN), Unsatisfiable);
    assert_eq!(of("bytes=10000-10001,20000-", LEN), Unsatisfiable);
    assert_eq!(of("bytes=18446744073709551615-", LEN), Unsatisfiable);
    assert_eq!(of("bytes=18446744073709551615-18446744073709551615", u64::MAX), Unsatisfiable);
}

#[test]
fn suffix_of_nothing_is_unsatisfiable_and_a_long_suffix_is_everything() {
    assert_eq!(of("bytes=-0", LEN), Unsatisfiable);
    assert_eq!(of("bytes=-10001", LEN), Single(0..LEN));
    assert_eq!(of(&format!("bytes=-{}", "9".repeat(500)), LEN), Single(0..LEN));
}

#[test]
fn empty_file_satisfies_no_range() {
    for value in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=5-9,-3"] {
        assert_eq!(of(value, 0), Unsatisfiable, "{value}");
    }
}

#[test]
fn overflowing_start_is_ignored_and_overflowing_end_is_cut() {
    assert_eq!(of("bytes=18446744073709551616-", LEN), Whole);
    assert_eq!(of("bytes=0-0,99999999999999999999-", LEN), Whole);
    assert_eq!(of("bytes=3-18446744073709551615", LEN), Single(3..LEN));
    assert_eq!(of("bytes=3-18446744073709551616", LEN), Single(3..LEN));
    assert_eq!(of(&format!("bytes=3-{}", "9".repeat(5000)), LEN), Single(3..LEN));
    assert_eq!(of("bytes=0-18446744073709551615", u64::MAX), Single(0..u64::MAX));
}

#[test]
fn separate_ranges_keep_the_order_of_the_request() {
    assert_eq!(of("bytes=500-509,0-9,-5", LEN), Multi(vec![500..510, 0..10, LEN - 5..LEN]));
}

#[test]
fn ranges_that_overlap_or_touch_become_one_at_the_first_place() {
    assert_eq!(of("bytes=0-9,5-19,20-29", LEN), Single(0..30));
    assert_eq!(of("bytes=20-29,0-4,10-19", LEN), Multi(vec![10..30, 0..5]));
    assert_eq!(of("bytes=900-999,0-4,100-199,3-120", LEN), Multi(vec![900..1000, 0..200]));
    assert_eq!(of("bytes=0-4,6-9", LEN), Multi(vec![0..5, 6..10]));
    assert_eq!(of("bytes=0-99,10-19,50-59", LEN), Single(0..100));
}

#[test]
fn unsatisfiable_members_are_dropped() {
    assert_eq!(of("bytes=20000-,0-4,-0", LEN), Single(0..5));
    assert_eq!(of("bytes=7-8,20000-30000,0-4", LEN), Multi(vec![7..9, 0..5]));
}

#[test]
fn too_many_separate_ranges_are_whole() {
    let ranges = |count: usize| (0..count).map(|at| format!("{}-{}", at * 20, at * 20)).collect::<Vec<_>>().join(",");
    assert!(matches!(of(&format!("bytes={}", ranges(MAX_RANGES)), LEN), Multi(list) if list.len() == MAX_RANGES));
    assert_eq!(of(&format!("bytes={}", ranges(MAX_RANGES + 1)), LEN), Whole);
}

#[test]
fn parts_that_cost_no_less_than_the_file_are_whole() {
    let edge = 20 + 2 * PART_OVERHEAD_BYTES;
    assert_eq!(of("bytes=0-9,20-29", edge), Whole);
    assert_eq!(of("bytes=0-9,20-29", edge + 1), Multi(vec![0..10, 20..30]));
    assert_eq!(of("bytes=0-0,2-18446744073709551614", u64::MAX), Whole);
}

#[test]
fn hostile_headers_are_fast() {
    let started = Instant::now();
    let open = format!("bytes={}", vec!["0-"; 1_500].join(","));
    let ones = (0..5_000).rev().map(|at| format!("{}-{}", at * 2, at * 2)).collect::<Vec<_>>().join(",");
    let nested = (0..5_000).map(|at| format!("{at}-{}", 20_000 - at)).collect::<Vec<_>>().join(",");
    for _ in 0..20 {
        assert_eq!(of(&open, 1 << 40), Single(0..1 << 40));
        assert_eq!(of(&format!("bytes={ones}"), 1 << 40), Whole);
        assert_eq!(of(&format!("bytes={nested}"), 1 << 40), Single(0..20_001));
        assert_eq!(of(&format!("bytes={}", ",".repeat(60_000)), 1 << 40), Whole);
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn content_range_has_inclusive_bounds() {
    assert_eq!(content_range(&(0..10), 100), "bytes 0-9/100");
    assert_eq!(
        content_range(&(u64::MAX - 1..u64::MAX), u64::MAX),
        format!("bytes {0}-{0}/{1}", u64::MAX - 1, u64::MAX)
    );
    assert_eq!(unsatisfied_range(0), "bytes */0");
}

#[test]
fn multipart_framing_is_exact() {
    let content = b"0123456789";
    let framed = multipart(&[2..4, 8..10], 10, "text/plain", "B");
    let mut body = Vec::new();
    for part in &framed.parts {
        body.extend_from_slice(&part.head);
        body.extend_from_slice(&content[part.range.start as usize..part.range.end as usize]);
    }
    body.extend_from_slice(&framed.tail);
    let expected = "--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 2-3/10\r\n\r\n23\
        \r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n89\r\n--B--\r\n";
    assert_eq!(String::from_utf8_lossy(&body), expected);
    assert_eq!(framed.content_length, expected.len() as u64);
    assert_eq!(framed.boundary, "B");
}

#[test]
fn content_type_never_ends_a_header_line() {
    for content_type in ["text/plain\r\nSet-Cookie: x=1", "", "text/é", "a\tb"] {
        let framed = multipart(&[0..1, 3..4], 10, content_type, "B");
        assert!(framed.parts[0].head.starts_with(b"--B\r\nContent-Type: application/octet-stream\r\nContent-Range: "));
    }
}

#[test]
fn part_overhead_is_close_to_the_real_one() {
    let boundary = "0123456789abcdef0123456789abcdef";
    let framed = multipart(&[0..1, 1 << 33..1 << 34], 1 << 35, "image/jpeg", boundary);
    for part in &framed.parts {
        assert!(part.head.len() as u64 <= PART_OVERHEAD_BYTES + 16, "{}", part.head.len());
    }
}

/// The bytes of a small file that the ranges cover.
fn covered(ranges: &[Range<u64>], len: u64) -> Vec<bool> {
    (0..len).map(|at| ranges.iter().any(|range| range.contains(&at))).collect()
}

/// Members as text and the plain reading of each, position by position.
fn members() -> impl Strategy<Value = Vec<(Option<u64>, Option<u64>)>> {
    let member = prop_oneof![
        (0_u64..80, 0_u64..40).prop_map(|(first, more)| (Some(first), Some(first + more))),
        (0_u64..80).prop_map(|first| (Some(first), None)),
        (0_u64..80).prop_map(|suffix| (None, Some(suffix))),
    ];
    prop::collection::vec(member, 1..40)
}

fn text(members: &[(Option<u64>, Option<u64>)]) -> String {
    let number = |number: &Option<u64>| number.map_or(String::new(), |number| number.to_string());
    let list = members.iter().map(|(first, last)| format!("{}-{}", number(first), number(last)));
    format!("bytes={}", list.collect::<Vec<_>>().join(", "))
}

fn asks_for(member: &(Option<u64>, Option<u64>), at: u64, len: u64) -> bool {
    match *member {
        (Some(first), Some(last)) => first <= at && at <= last,
        (Some(first), None) => first <= at,
        (None, Some(suffix)) => at + suffix >= len,
        (None, None) => false,
    }
}

proptest! {
    #[test]
    fn arbitrary_header_and_length_never_panic(line in any::<Vec<u8>>(), len in any::<u64>()) {
        if HeaderValue::from_bytes(&line).is_ok() {
            plan(&map(&[&line]), len);
        }
    }

    #[test]
    fn range_like_header_never_panics_and_stays_within(line in "bytes=[-0-9, ]{0,60}", len in any::<u64>()) {
        match of(&line, len) {
            Single(range) => prop_assert!(range.start < range.end && range.end <= len),
            Multi(ranges) => {
                prop_assert!((2..=MAX_RANGES).contains(&ranges.len()));
                prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= len));
            }
            Whole | Unsatisfiable => {}
        }
    }

    #[test]
    fn coalesced_ranges_cover_exactly_what_was_asked(members in members(), len in 0_u64..64) {
        let asked = satisfiable(text(&members).as_bytes(), len);
        let ranges = coalesce(asked.expect("a well-formed header"));
        let expected: Vec<bool> = (0..len).map(|at| members.iter().any(|member| asks_for(member, at, len))).collect();
        prop_assert_eq!(covered(&ranges, len), expected);
        prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= len));
        let mut sorted = ranges;
        sorted.sort_by_key(|range| range.start);
        prop_assert!(sorted.windows(2).all(|pair| pair[0].end < pair[1].start));
    }

    #[test]
    fn coalesced_ranges_come_in_the_order_of_their_first_member(members in members(), len in 1_u64..64) {
        let asked = satisfiable(text(&members).as_bytes(), len).expect("a well-formed header");
        let place = |range: &Range<u64>| asked.iter().position(|one| range.start <= one.start && one.end <= range.end);
        let places: Vec<_> = coalesce(asked.clone()).iter().map(place).collect();
        prop_assert!(places.iter().all(Option::is_some));
        prop_assert!(places.is_sorted());
    }

    #[test]
    fn plan_covers_what_was_asked_or_everything(members in members(), len in 0_u64..4_096) {
        let expected: Vec<bool> = (0..len).map(|at| members.iter().any(|member| asks_for(member, at, len))).collect();
        match of(&text(&members), len) {
            Whole => {}
            Single(range) => prop_assert_eq!(covered(std::slice::from_ref(&range), len), expected),
            Multi(ranges) => {
                let cost: u64 = ranges.iter().map(|range| range.end - range.start + PART_OVERHEAD_BYTES).sum();
                prop_assert!(cost < len);
                prop_assert_eq!(covered(&ranges, len), expected);
            }
            Unsatisfiable => prop_assert!(!expected.contains(&true)),
        }
    }

    #[test]
    fn multipart_length_is_the_sum_of_its_pieces(
        members in members(), len in 1_u64..64, content_type in any::<String>(), boundary in "[0-9a-z]{1,70}",
    ) {
        let ranges = coalesce(satisfiable(text(&members).as_bytes(), len).expect("a well-formed header"));
        let framed = multipart(&ranges, len, &content_type, &boundary);
        let heads: u64 = framed.parts.iter().map(|part| part.head.len() as u64).sum();
        let contents: u64 = framed.parts.iter().map(|part| part.range.end - part.range.start).sum();
        prop_assert_eq!(framed.content_length, heads + contents + framed.tail.len() as u64);
        prop_assert_eq!(framed.parts.len(), ranges.len());
        for part in &framed.parts {
            // the delimiter, two header fields, the empty line: four line ends, five where the
            // delimiter opens with one
            prop_assert!(part.head.ends_with(b"\r\n\r\n"));
            let ends = part.head.windows(2).filter(|pair| *pair == b"\r\n").count();
            prop_assert_eq!(ends, if part.head.starts_with(b"\r\n") { 5 } else { 4 });
        }
    }
}
