//! The `Range` header: whatever it says, a plan lies within the content, in order and without overlap; what is well
//! formed asks for exactly the bytes it names.

#![no_main]

use std::ops::Range;

use gridgate::http::ranges::{MAX_RANGES, RangePlan, content_range, multipart, plan};
use http::header::{HeaderMap, HeaderValue, RANGE};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Case {
    Raw { len: u64, lines: Vec<Vec<u8>> },
    WellFormed { len: u16, asked: Vec<Asked> },
}

#[derive(Debug, Arbitrary)]
enum Asked {
    Span(u16, u16),
    From(u16),
    Last(u16),
}

impl Asked {
    fn text(&self) -> String {
        match self {
            Self::Span(a, b) => format!("{}-{}", a.min(b), a.max(b)),
            Self::From(first) => format!("{first}-"),
            Self::Last(len) => format!("-{len}"),
        }
    }

    fn bytes(&self, len: u64) -> Range<u64> {
        match *self {
            Self::Span(a, b) => u64::from(a.min(b))..(u64::from(a.max(b)) + 1).min(len),
            Self::From(first) => u64::from(first)..len,
            Self::Last(last) => len.saturating_sub(last.into())..len,
        }
    }
}

fn headers(lines: &[Vec<u8>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(RANGE, HeaderValue::from_bytes(line).ok()?);
    }
    Some(headers)
}

fn ranges(plan: &RangePlan, len: u64) -> Vec<Range<u64>> {
    match plan {
        RangePlan::Whole => vec![0..len],
        RangePlan::Single(range) => vec![range.clone()],
        RangePlan::Multi(ranges) => ranges.clone(),
        RangePlan::Unsatisfiable => Vec::new(),
    }
}

fn assert_sound(plan: &RangePlan, len: u64) {
    let mut sorted = ranges(plan, len);
    if let RangePlan::Multi(parts) = plan {
        assert!((2..=MAX_RANGES).contains(&parts.len()), "{} parts", parts.len());
        let framed = multipart(parts, len, "text/plain", "boundary");
        let sent: u64 =
            framed.parts.iter().map(|part| part.head.len() as u64 + part.range.end - part.range.start).sum();
        assert_eq!(sent + framed.tail.len() as u64, framed.content_length);
        assert!(framed.parts.iter().map(|part| &part.range).eq(parts), "parts in the order of the plan");
    }
    if *plan == RangePlan::Whole {
        return;
    }
    sorted.sort_by_key(|range| range.start);
    for range in &sorted {
        assert!(range.start < range.end && range.end <= len, "{range:?} of {len}");
        assert_eq!(content_range(range, len), format!("bytes {}-{}/{len}", range.start, range.end - 1));
    }
    assert!(sorted.windows(2).all(|pair| pair[0].end < pair[1].start), "they overlap or touch: {sorted:?}");
}

fuzz_target!(|case: Case| {
    match case {
        Case::Raw { len, lines } => {
            let Some(headers) = headers(&lines) else { return };
            let plan = plan(&headers, len);
            assert_sound(&plan, len);
            assert!(lines.len() == 1 || plan == RangePlan::Whole, "no header, or several, are ignored");
        }
        Case::WellFormed { len, asked } if !asked.is_empty() => {
            let len = u64::from(len);
            let members: Vec<String> = asked.iter().map(Asked::text).collect();
            let Some(headers) = headers(&[format!("bytes={}", members.join(", ")).into_bytes()]) else { return };
            let plan = plan(&headers, len);
            assert_sound(&plan, len);
            let mut is_asked = vec![false; len as usize];
            for range in asked.iter().map(|asked| asked.bytes(len)).filter(|range| range.start < range.end) {
                is_asked[range.start as usize..range.end as usize].fill(true);
            }
            assert_eq!(plan == RangePlan::Unsatisfiable, !is_asked.contains(&true), "{members:?} of {len}");
            if plan != RangePlan::Whole {
                let mut is_planned = vec![false; len as usize];
                ranges(&plan, len)
                    .iter()
                    .for_each(|range| is_planned[range.start as usize..range.end as usize].fill(true));
                assert!(is_planned == is_asked, "{members:?} of {len}: {plan:?}");
            }
        }
        Case::WellFormed { .. } => {}
    }
});
