//! What the project wants of the figures, and what was seen: ratios within one run wherever there is
//! something to compare with.

use serde_json::{Value, json};

use crate::arguments::{MIB, Scale};
use crate::content::Kind;
use crate::report::{Figure, Report, short};
use crate::server::{EXPRESS, EXPRESS_PIPELINE, FASTAPI, NAIVE};
use crate::suites::{finish, growth, large, memory, ranges, small};
use crate::ways::{self, RAW};

/// Goals for the processor are for 10^9 bytes, figures for 2^30.
const GIB_PER_GB: f64 = 1.073_741_824;
/// What the driver alone took where those goals were set, in CPU seconds a GB: the same work takes up to twice as long
/// on a machine that is shared, for the driver as for us.
const DRIVER_INSERT: f64 = 0.60;
const DRIVER_FIND: f64 = 0.37;
/// From here on completing an upload has a goal of its own.
const LONG: usize = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

/// One goal and what was seen.
#[derive(Debug)]
pub struct Goal {
    pub what: String,
    pub better: Better,
    pub goal: f64,
    /// What every run must reach.
    pub limit: Option<f64>,
    pub seen: f64,
}

impl Goal {
    /// 1 where the goal is just reached, more where it is surpassed.
    pub fn share(&self, value: f64) -> f64 {
        match self.better {
            Better::More => value / self.goal,
            Better::Less => self.goal / value,
        }
    }

    fn verdict(&self) -> &'static str {
        let limit = self.limit.unwrap_or(self.goal);
        match self.share(self.seen) {
            share if share >= 1.0 => "reached",
            share if share >= self.share(limit) => "within the limit",
            _ => "missed",
        }
    }

    pub fn wanted(&self) -> String {
        let sign = if self.better == Better::More { "≥" } else { "≤" };
        let limit = self.limit.map(|limit| format!(", always {sign} {}", short(limit))).unwrap_or_default();
        format!("{sign} {}{limit}", short(self.goal))
    }

    pub fn line(&self) -> Value {
        json!({
            "goal": self.what, "seen": self.seen, "wanted": self.goal, "limit": self.limit,
            "better": if self.better == Better::More { "more" } else { "less" }, "verdict": self.verdict(),
        })
    }
}

/// The goals in Markdown.
pub fn table(goals: &[Goal]) -> String {
    let row =
        |goal: &Goal| format!("| {} | {} | {} | {} |\n", goal.what, short(goal.seen), goal.wanted(), goal.verdict());
    let rows: String = goals.iter().map(row).collect();
    format!("| goal | seen | wanted | |\n|---|---|---|---|\n{rows}")
}

/// The goals that the run has figures for.
pub fn goals(report: &Report, scale: &Scale) -> Vec<Goal> {
    let mut found = Found { report, goals: Vec::new() };
    uploads(&mut found, scale);
    downloads(&mut found, scale);
    range_reads(&mut found, scale);
    small_files(&mut found);
    memory_and_answers(&mut found, scale);
    growing(&mut found);
    found.goals
}

fn uploads(found: &mut Found, scale: &Scale) {
    let [random, text] = [Kind::Random, Kind::Text].map(|kind| large::case("upload", kind, scale.large[0]));
    let (plain, encrypted, all) = (ways::plain().who, ways::encrypted().who, ways::zstd_encrypted().who);
    let rate = |case, who| (case, who, "mibPerSec");
    let mut more = |what: &str, case, who, other, goal, limit| {
        found.ratio(what, rate(case, who), rate(case, other), Better::More, goal, Some(limit));
    };
    more("plain upload / raw inserts", &random, plain, RAW, 0.78, 0.65);
    more("encrypted upload / raw inserts", &random, encrypted, RAW, 0.74, 0.60);
    more("plain upload / naive axum", &random, plain, NAIVE, 2.0, 1.7);
    more("plain upload / FastAPI", &random, plain, FASTAPI, 1.5, 1.3);
    more("plain upload / Express", &random, plain, EXPRESS, 3.0, 2.5);
    more("text, zstd + encrypted / raw inserts", &text, all, RAW, 1.2, 1.0);
    more("text, zstd + encrypted / Express gzip + cipher", &text, all, EXPRESS_PIPELINE, 12.0, 8.0);
    let cpu = |who| (random.as_str(), who, "serverCpuSecsPerGib");
    found.cpu("gateway CPU s/GB, encrypted upload", cpu(encrypted), 1.6, 2.0);
    found.beside_driver("encrypted upload", cpu(encrypted), cpu(RAW), [1.6, 2.0].map(|secs| secs / DRIVER_INSERT));
}

fn downloads(found: &mut Found, scale: &Scale) {
    let [random, text] = [Kind::Random, Kind::Text].map(|kind| large::case("download", kind, scale.large[0]));
    let (plain, encrypted, zstd) = (ways::plain().who, ways::encrypted().who, ways::zstd().who);
    let rate = |case, who| (case, who, "mibPerSec");
    let mut more = |what: &str, case, who, other, goal, limit| {
        found.ratio(what, rate(case, who), rate(case, other), Better::More, goal, Some(limit));
    };
    more("plain download / raw find", &random, plain, RAW, 0.75, 0.60);
    more("plain download / naive axum", &random, plain, NAIVE, 2.5, 1.7);
    more("plain download / FastAPI", &random, plain, FASTAPI, 1.2, 1.0);
    more("encrypted download / raw find", &random, encrypted, RAW, 0.65, 0.5);
    more("zstd text download / raw find", &text, zstd, RAW, 0.65, 0.5);
    let as_stored = ways::zstd_as_stored().who;
    let cpu = |who| (text.as_str(), who, "serverCpuSecsPerGib");
    found.ratio("gateway CPU, decoded / zstd as stored", cpu(zstd), cpu(as_stored), Better::More, 2.0, None);
    let cpu = |who| (random.as_str(), who, "serverCpuSecsPerGib");
    found.cpu("gateway CPU s/GB, plain download", cpu(plain), 0.8, 1.1);
    found.beside_driver("plain download", cpu(plain), cpu(RAW), [0.8, 1.1].map(|secs| secs / DRIVER_FIND));
}

fn range_reads(found: &mut Found, scale: &Scale) {
    let case = ranges::case(scale.range_file);
    let (plain, all) = (ways::plain().who, ways::zstd_encrypted().who);
    for who in [plain, ways::encrypted().who, ways::zstd().who, all, ways::gzip().who] {
        let wait = |name| (case.as_str(), who, name);
        let express = (case.as_str(), EXPRESS, "firstByteMs");
        let first = format!("range, first byte / Express: {who}");
        found.ratio(&first, wait("firstByteMs"), express, Better::Less, 0.6, Some(1.0));
        let far = format!("range, last / first decile: {who}");
        found.ratio(&far, wait("lastDecileMs"), wait("firstDecileMs"), Better::Less, 1.3, None);
    }
    let whole = |who| (case.as_str(), who, "wholeMs");
    found.ratio("range, zstd + encrypted / plain", whole(all), whole(plain), Better::Less, 1.5, None);
}

fn small_files(found: &mut Found) {
    let plain = ways::plain().who;
    let wanted = [
        ("upload", 1, 1.0, 0.8),
        ("upload", 16, 2.0, 1.5),
        ("upload", 64, 4.0, 3.0),
        ("download", 1, 1.0, 0.8),
        ("download", 64, 5.0, 3.0),
    ];
    for (act, clients, goal, limit) in wanted {
        let case = small::case(act, 4 << 10, clients);
        let rate = |who| (case.as_str(), who, "perSec");
        found.ratio(&format!("{case} / naive axum"), rate(plain), rate(NAIVE), Better::More, goal, Some(limit));
    }
}

fn memory_and_answers(found: &mut Found, scale: &Scale) {
    let all = ways::zstd_encrypted().who;
    let [less, more] = scale.memory.map(|len| memory::uploads_case(1, len));
    let crowd = memory::uploads_case(memory::CROWD, scale.crowd);
    let peak = |case| (case, all, "peakMib");
    found.value(&format!("peak MiB, {more}"), peak(more.as_str()), 48.0, 64.0);
    found.ratio(&format!("peak, {more} / {less}"), peak(more.as_str()), peak(less.as_str()), Better::Less, 1.1, None);
    found.value(&format!("peak MiB, {crowd}"), peak(crowd.as_str()), 192.0, 256.0);
    let paused = memory::paused_case(scale.paused);
    for who in [ways::plain().who, all] {
        found.value(&format!("MiB of a paused download, {who}"), (&paused, who, "eachMib"), 4.0, 6.0);
    }
    let plain = ways::plain().who;
    let [first, last] = [scale.finish.first(), scale.finish.last()].map(|len| finish::case(*len.unwrap_or(&MIB)));
    let wait = |case| (case, plain, "finishMs");
    found.value(&format!("ms, {last}"), wait(last.as_str()), 60.0, 120.0);
    found.ratio(&format!("{last} / {first}"), wait(last.as_str()), wait(first.as_str()), Better::Less, 1.5, Some(2.5));
    complete(found, scale, plain);
}

fn complete(found: &mut Found, scale: &Scale, who: &'static str) {
    for &parts in scale.complete {
        let (many, few) = (finish::complete_case(parts), finish::beside_case(parts));
        let (many, few) = ((many.as_str(), who, "completeMs"), (few.as_str(), who, "completeMs"));
        let is_long = parts.count * parts.len >= LONG;
        if is_long {
            found.value(&format!("ms, {}", many.0), many, 10.0, 25.0);
        }
        // Thousands of parts may take three times as long as a few.
        let (goal, limit) = if is_long { (1.3, 2.0) } else { (3.0, 3.0) };
        found.ratio(&format!("{} / {}", many.0, finish::FEW), many, few, Better::Less, goal, Some(limit));
    }
}

fn growing(found: &mut Found) {
    let (many, none) = (ways::grown().who, ways::plain().who);
    for query in growth::LISTS {
        let case = growth::list_case(query);
        found.value(&format!("ms p99, {case}, many files"), (&case, many, "p99Ms"), 50.0, 62.5);
    }
    let (large, small, range) = (growth::upload_case(), growth::small_case(), growth::range_case());
    for (case, name, better, goal, limit) in [
        (&large, "mibPerSec", Better::More, 0.9, 0.75),
        (&small, "perSec", Better::More, 0.9, 0.75),
        (&range, "wholeMs", Better::Less, 1.1, 1.25),
    ] {
        let what = format!("{case}, many files / none");
        found.ratio(&what, (case, many, name), (case, none, name), better, goal, Some(limit));
    }
}

/// Collects the goals whose figures are there.
struct Found<'a> {
    report: &'a Report,
    goals: Vec<Goal>,
}

impl Found<'_> {
    fn ratio(&mut self, what: &str, over: Figure, under: Figure, better: Better, goal: f64, limit: Option<f64>) {
        self.add(what, self.report.ratio(over, under), better, goal, limit);
    }

    fn value(&mut self, what: &str, figure: Figure, goal: f64, limit: f64) {
        self.add(what, self.report.median(figure), Better::Less, goal, Some(limit));
    }

    fn cpu(&mut self, what: &str, figure: Figure, goal: f64, limit: f64) {
        let seen = self.report.median(figure).map(|per_gib| per_gib / GIB_PER_GB);
        self.add(what, seen, Better::Less, goal, Some(limit));
    }

    /// The gateway's processor time over that of the driver which does nothing else.
    fn beside_driver(&mut self, what: &str, gateway: Figure, driver: Figure, [goal, limit]: [f64; 2]) {
        let what = format!("gateway CPU / CPU of the driver alone, {what}");
        self.ratio(&what, gateway, driver, Better::Less, goal, Some(limit));
    }

    fn add(&mut self, what: &str, seen: Option<f64>, better: Better, goal: f64, limit: Option<f64>) {
        if let Some(seen) = seen.filter(|seen| seen.is_finite()) {
            self.goals.push(Goal { what: what.to_owned(), better, goal, limit, seen });
        }
    }
}
