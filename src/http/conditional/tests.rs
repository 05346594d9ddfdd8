//! Tests of preconditions and `If-Range`; pure, no server is started.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::{Precondition, Reading, Validators, evaluate, if_range_holds};
use Precondition::{Failed, NotModified, Proceed};
use Reading::{Safe, Unsafe};

const TAG: &str = "abc,def";
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const EXACT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
const FAR: &str = "Fri, 31 Dec 9999 23:59:59 GMT";

/// 0.7 s past [`EXACT`], so that every date test also tests whole-second granularity.
fn modified() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(784_111_777_700)
}

fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header value");
        headers.append(HeaderName::from_static(name), value);
    }
    headers
}

fn run(reading: Reading, lines: &[(&'static str, &str)]) -> Precondition {
    evaluate(reading, &map(lines), &Validators { etag: TAG, modified: modified() })
}

fn holds(lines: &[(&'static str, &str)]) -> bool {
    if_range_holds(&map(lines), &Validators { etag: TAG, modified: modified() })
}

#[test]
fn no_condition_proceeds() {
    assert_eq!(run(Safe, &[]), Proceed);
    assert_eq!(run(Unsafe, &[]), Proceed);
}

#[test]
fn if_match_compares_strongly() {
    for reading in [Safe, Unsafe] {
        assert_eq!(run(reading, &[("if-match", r#""abc,def""#)]), Proceed);
        assert_eq!(run(reading, &[("if-match", "*")]), Proceed);
        assert_eq!(run(reading, &[("if-match", r#"W/"abc,def""#)]), Failed);
        assert_eq!(run(reading, &[("if-match", r#""abc""#)]), Failed);
        assert_eq!(run(reading, &[("if-match", r#""ABC,DEF""#)]), Failed);
    }
}

#[test]
fn tag_lists_span_members_and_lines() {
    assert_eq!(run(Unsafe, &[("if-match", r#""x", W/"y" ,"abc,def""#)]), Proceed);
    assert_eq!(run(Unsafe, &[("if-match", r#""x""#), ("if-match", r#","abc,def","#)]), Proceed);
    assert_eq!(run(Unsafe, &[("if-match", r#""x""#), ("if-match", r#""y""#)]), Failed);
    assert_eq!(run(Safe, &[("if-none-match", r#""x""#), ("if-none-match", r#" , W/"abc,def""#)]), NotModified);
}

#[test]
fn comma_inside_a_tag_does_not_split_it() {
    let v = Validators { etag: "def", modified: modified() };
    assert_eq!(evaluate(Unsafe, &map(&[("if-match", r#""abc,def""#)]), &v), Failed);
    assert_eq!(evaluate(Unsafe, &map(&[("if-match", r#""abc,",def","#)]), &v), Failed);
}

#[test]
fn malformed_if_match_fails() {
    for value in ["abc,def", "\"abc,def", r#"w/"abc,def""#, r#""abc,def" x"#, r#""abc,def""x""#, r#"*, "abc,def""#] {
        assert_eq!(run(Unsafe, &[("if-match", value)]), Failed, "{value}");
    }
    assert_eq!(run(Unsafe, &[("if-match", "")]), Failed);
    assert_eq!(run(Unsafe, &[("if-match", r#""a b", "abc,def""#)]), Failed);
    assert_eq!(run(Unsafe, &[("if-match", "*"), ("if-match", "*")]), Failed);
}

#[test]
fn malformed_if_none_match_is_ignored_and_still_hides_the_date() {
    for value in ["abc,def", r#"W/abc,def"#, r#""abc,def", x"#, r#"*, "abc,def""#, ""] {
        assert_eq!(run(Safe, &[("if-none-match", value)]), Proceed, "{value}");
        assert_eq!(run(Safe, &[("if-none-match", value), ("if-modified-since", FAR)]), Proceed, "{value}");
    }
}

#[test]
fn if_none_match_is_not_modified_when_reading_and_failed_when_writing() {
    for value in [r#""abc,def""#, r#"W/"abc,def""#, "*", " * ", r#""x", "abc,def""#] {
        assert_eq!(run(Safe, &[("if-none-match", value)]), NotModified, "{value}");
        assert_eq!(run(Unsafe, &[("if-none-match", value)]), Failed, "{value}");
    }
    assert_eq!(run(Safe, &[("if-none-match", r#""x""#)]), Proceed);
    assert_eq!(run(Unsafe, &[("if-none-match", r#""x""#)]), Proceed);
}

#[test]
fn unmodified_since_fails_only_for_an_earlier_second() {
    for (date, expected) in [(BEFORE, Failed), (EXACT, Proceed), (AFTER, Proceed), (FAR, Proceed)] {
        assert_eq!(run(Unsafe, &[("if-unmodified-since", date)]), expected, "{date}");
        assert_eq!(run(Safe, &[("if-unmodified-since", date)]), expected, "{date}");
    }
}

#[test]
fn unmodified_since_is_ignored_beside_if_match_and_when_invalid() {
    assert_eq!(run(Unsafe, &[("if-match", "*"), ("if-unmodified-since", BEFORE)]), Proceed);
    assert_eq!(run(Unsafe, &[("if-unmodified-since", "yesterday")]), Proceed);
    assert_eq!(run(Unsafe, &[("if-unmodified-since", BEFORE), ("if-unmodified-since", BEFORE)]), Proceed);
}

#[test]
fn modified_since_is_not_modified_from_the_same_second_on() {
    for (date, expected) in [(BEFORE, Proceed), (EXACT, NotModified), (AFTER, NotModified), (FAR, NotModified)] {
        assert_eq!(run(Safe, &[("if-modified-since", date)]), expected, "{date}");
        assert_eq!(run(Unsafe, &[("if-modified-since", date)]), Proceed, "{date}");
    }
}

#[test]
fn modified_since_accepts_the_obsolete_forms_and_ignores_invalid_dates() {
    assert_eq!(run(Safe, &[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")]), NotModified);
    assert_eq!(run(Safe, &[("if-modified-since", "Sun Nov  6 08:49:37 1994")]), NotModified);
    for date in ["", "0", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 CET", "1994-11-06T08:49:37Z"] {
        assert_eq!(run(Safe, &[("if-modified-since", date)]), Proceed, "{date}");
    }
    assert_eq!(run(Safe, &[("if-modified-since", FAR), ("if-modified-since", FAR)]), Proceed);
}

#[test]
fn modified_since_is_ignored_beside_if_none_match() {
    assert_eq!(run(Safe, &[("if-none-match", r#""x""#), ("if-modified-since", FAR)]), Proceed);
}

#[test]
fn steps_come_in_the_order_of_the_standard() {
    assert_eq!(run(Safe, &[("if-match", r#""x""#), ("if-none-match", "*")]), Failed);
    assert_eq!(run(Safe, &[("if-match", "*"), ("if-none-match", "*")]), NotModified);
    assert_eq!(run(Safe, &[("if-unmodified-since", BEFORE), ("if-none-match", "*")]), Failed);
    assert_eq!(run(Safe, &[("if-unmodified-since", EXACT), ("if-modified-since", EXACT)]), NotModified);
}

#[test]
fn if_range_holds_for_the_strong_tag_and_when_absent() {
    assert!(holds(&[]));
    assert!(holds(&[("if-range", r#""abc,def""#)]));
    assert!(holds(&[("if-range", r#" "abc,def" "#)]));
}

#[test]
fn if_range_holds_for_no_other_tag() {
    for value in
        [r#"W/"abc,def""#, r#""x""#, "*", "", "abc,def", r#""abc,def", "x""#, r#""abc,def""#.trim_end_matches('"')]
    {
        assert!(!holds(&[("if-range", value)]), "{value}");
    }
    assert!(!holds(&[("if-range", r#""abc,def""#), ("if-range", r#""abc,def""#)]));
}

#[test]
fn if_range_date_holds_only_when_exact() {
    for (date, expected) in [(BEFORE, false), (EXACT, true), (AFTER, false), (FAR, false), ("Sun, 06 Nov", false)] {
        assert_eq!(holds(&[("if-range", date)]), expected, "{date}");
    }
}

#[test]
fn time_before_1970_counts_as_1970() {
    let v = Validators { etag: TAG, modified: UNIX_EPOCH - Duration::from_secs(5) };
    let headers = map(&[("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT")]);
    assert_eq!(evaluate(Safe, &headers, &v), NotModified);
}

#[test]
fn obs_text_in_a_tag_is_compared_by_bytes() {
    let v = Validators { etag: "é", modified: modified() };
    assert_eq!(evaluate(Unsafe, &map(&[("if-match", "\"é\"")]), &v), Proceed);
    assert_eq!(evaluate(Unsafe, &map(&[("if-match", "\"e\"")]), &v), Failed);
}

proptest! {
    #[test]
    fn arbitrary_headers_never_panic(name in 0usize..5, lines in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
        let names = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"];
        let mut headers = HeaderMap::new();
        for line in &lines {
            if let Ok(value) = HeaderValue::from_bytes(line) {
                headers.append(HeaderName::from_static(names[name]), value);
            }
        }
        let v = Validators { etag: TAG, modified: modified() };
        evaluate(Safe, &headers, &v);
        evaluate(Unsafe, &headers, &v);
        if_range_holds(&headers, &v);
    }

    #[test]
    fn date_like_headers_never_panic(
        date in "(Sun|Mon|Sunday)[, ]{1,2}[0-9]{1,2}[- ](Nov|Feb)[- ][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT",
    ) {
        run(Safe, &[("if-modified-since", &date)]);
        holds(&[("if-range", &date)]);
    }

    #[test]
    fn any_tag_list_finds_exactly_its_members(tags in prop::collection::vec("[!#-~]{0,6}", 0..6), at in 0usize..8) {
        let list = tags.iter().map(|tag| format!("\"{tag}\"")).collect::<Vec<_>>().join(" , ");
        let etag = tags.get(at).map_or("not listed", String::as_str);
        let v = Validators { etag, modified: modified() };
        let expected = if at < tags.len() { Proceed } else { Failed };
        prop_assert_eq!(evaluate(Unsafe, &map(&[("if-match", &list)]), &v), expected);
    }
}
