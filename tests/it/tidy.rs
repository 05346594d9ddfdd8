//! Rules of the source tree as tests. Each rule is a function from a text to its offences; its test
//! runs it over the tree and over a planted offence, so that a rule that sees nothing fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may name whom, module by module; `cli`, `app` and `config` put things together.
const ARROWS: [(&str, &[&str]); 25] = [
    ("main", &["cli"]),
    ("cli", &["allocator", "app", "backup", "config", "error", "files", "jobs", "telemetry"]),
    (
        "app",
        &[
            "clock",
            "config",
            "content",
            "error",
            "files",
            "http",
            "jobs",
            "keyring",
            "mongod",
            "network",
            "random",
            "secret",
            "secret_file",
            "store",
            "telemetry",
        ],
    ),
    ("config", &["content", "files", "http", "mongod", "secret", "store", "telemetry"]),
    (
        "http",
        &[
            "clock",
            "content",
            "error",
            "files",
            "format",
            "metrics",
            "network",
            "pipeline",
            "random",
            "store",
            "telemetry",
        ],
    ),
    ("backup", &["error", "failpoint", "files", "format", "jobs", "keyring", "store"]),
    (
        "jobs",
        &["clock", "content", "error", "failpoint", "files", "format", "metrics", "pipeline", "store", "telemetry"],
    ),
    ("files", &["clock", "content", "error", "format", "keyring", "network", "pipeline", "random", "secret", "store"]),
    ("content", &["error", "format"]),
    ("keyring", &["error", "format", "random", "store"]),
    ("pipeline", &["error", "format"]),
    ("store", &["clock", "content", "error", "failpoint", "format", "metrics", "random", "secret"]),
    ("format", &[]),
    ("allocator", &[]),
    ("clock", &[]),
    ("error", &[]),
    ("failpoint", &[]),
    ("metrics", &["clock"]),
    ("mongod", &[]),
    ("network", &[]),
    ("random", &[]),
    ("secret", &[]),
    ("secret_file", &[]),
    ("telemetry", &[]),
    ("gridgate", &["cli"]),
];

/// Crates that only some modules may name.
const CRATES: [(&str, &[&str]); 25] = [
    ("mongodb", &["store", "mongod"]),
    ("axum", &["http"]),
    ("tower_http", &["http"]),
    ("hyper_util", &["http"]),
    ("tokio_rustls", &["http"]),
    ("multer", &["http"]),
    ("askama", &["http"]),
    ("governor", &["http"]),
    ("argon2", &["files"]),
    ("jsonwebtoken", &["files"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("tar", &["backup"]),
    ("tempfile", &["backup"]),
    ("prometheus_client", &["metrics"]),
    ("infer", &["content"]),
    ("mime_guess", &["content"]),
    ("aws_lc_rs", &["format"]),
    ("zstd", &["format"]),
    ("flate2", &["format"]),
    ("xxhash_rust", &["format"]),
    ("hkdf", &["format"]),
    ("hmac", &["format"]),
    ("getrandom", &["random", "mongod"]),
    ("libc", &["allocator"]),
];

/// What `format` must not name: it is pure.
const IMPURE: [&str; 8] =
    ["tokio", "futures", "getrandom", "std::fs", "std::net", "std::time", "std::env", "std::process"];

/// Who reads the system's clock.
const CLOCK_READERS: [(&str, &str); 3] = [
    ("src/clock.rs", "the clock itself"),
    ("src/store/gridfs.rs", "`uploadDate`, which nothing here reads"),
    ("src/mongod/fetch.rs", "the age of folders on disk, in a test"),
];

/// The driver's acts that wait for the database; those with a session are limited with their transaction.
const ACTS: [&str; 22] = [
    "abort_transaction",
    "aggregate",
    "commit_transaction",
    "count_documents",
    "delete_many",
    "delete_one",
    "distinct",
    "find",
    "find_one",
    "find_one_and_update",
    "insert_many",
    "insert_one",
    "list_collection_names",
    "replace_one",
    "run_command",
    "start_session",
    "start_transaction",
    "try_collect",
    "try_next",
    "update_many",
    "update_one",
    "watch",
];

/// Those of them that look things up: they have a limit on the server, too, so that it does not go on alone.
const READS: [&str; 5] = ["aggregate", "count_documents", "distinct", "find", "find_one"];

/// Scans, which take as long as there is to read; each of their steps is limited.
const UNTIMED: [&str; 2] = ["are_own_chunks", "scan_foreign"];
const SCANS: [&str; 2] = [".within(SCAN_LIMIT)", ".within(KEPT)"];

/// Functions that their callers limit as a whole.
const LIMITED_BY_CALLERS: [&str; 3] = ["insert_files_once", "insert_once", "readable"];

const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 80;

/// Files that may be longer, how long, and why.
const LONG_FILES: [(&str, usize, &str); 0] = [];

const BANNED_NAMES: [&str; 11] =
    ["util", "utils", "common", "helper", "helpers", "core", "base", "impls", "manager", "data", "info"];
const BANNED_AFFIXES: [&str; 3] = ["_service", "_manager", "handle_"];

pub struct SourceFile {
    /// From the project's folder, with forward slashes.
    path: String,
    pub text: String,
}

impl SourceFile {
    fn planted(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The module at the top of the tree that the file belongs to.
    fn module(&self) -> &str {
        let inner = self.path.trim_start_matches("src/");
        inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
    }

    fn is_tests(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The lines before the tests, none for a file of tests.
    fn product(&self) -> Vec<&str> {
        if self.is_tests() {
            return Vec::new();
        }
        self.text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).collect()
    }

    /// The product's lines with their numbers, without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.product().into_iter().enumerate().map(|(i, line)| (i + 1, line.split("//").next().unwrap_or(line)))
    }

    fn offence(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        let is_built = ["target", "node_modules", "data"].contains(&name.as_str()) || name.starts_with(".git");
        match entry.is_dir() {
            true if !is_built => walk(&entry, found),
            true => {}
            false => found.push(entry),
        }
    }
}

pub fn files_with(folder: &str, extension: &str) -> Vec<SourceFile> {
    let mut paths = Vec::new();
    walk(&root().join(folder), &mut paths);
    paths.sort();
    let wanted = paths.into_iter().filter(|path| path.extension().is_some_and(|found| found == extension));
    let read = |path: PathBuf| SourceFile {
        path: path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(),
        text: fs::read_to_string(&path).unwrap(),
    };
    let found: Vec<_> = wanted.map(read).collect();
    assert!(!found.is_empty(), "no .{extension} in {folder}");
    found
}

/// Runs a rule over the source and over a text that breaks it.
fn holds(rule: impl Fn(&SourceFile) -> Vec<String>, planted: SourceFile) {
    assert!(!rule(&planted).is_empty(), "the rule does not see the planted offence in {}", planted.path);
    let offences: Vec<String> = files_with("src", "rs").iter().flat_map(rule).collect();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

/// Whether `name` stands in `code` as a path's first segment: `name::`, not `other_name::`.
fn names(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

#[test]
fn every_file_opens_with_its_purpose() {
    holds(
        |file| {
            let opens = ["//!", "#![doc"].iter().any(|mark| file.text.starts_with(mark));
            let is_named = opens || file.is_tests();
            if is_named { Vec::new() } else { vec![file.offence(1, "does not open with `//!`")] }
        },
        SourceFile::planted("src/a.rs", "use std::fmt;\n"),
    );
}

fn wrong_arrows(file: &SourceFile) -> Vec<String> {
    let module = if file.path == "src/lib.rs" { "gridgate" } else { file.module() };
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
        return vec![file.offence(1, "the module has no row in ARROWS of tests/it/tidy.rs")];
    };
    let mut offences = Vec::new();
    for (number, line) in file.code() {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let named: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if named.is_empty() {
                offences.push(file.offence(number, "one `use` a module, so that the arrows can be read"));
            } else if named != module && !allowed.contains(&named.as_str()) {
                offences.push(file.offence(number, &format!("{module} must not name {named}")));
            }
        }
    }
    offences
}

#[test]
fn imports_point_one_way() {
    holds(wrong_arrows, SourceFile::planted("src/format/seal.rs", "//! x\nuse crate::store::Store;\n"));
    for bad in ["use crate::http::files;", "use crate::{error, http};", "let x = crate::jobs::start;"] {
        let planted = SourceFile::planted("src/store/chunks.rs", bad);
        assert_eq!(wrong_arrows(&planted).len(), 1, "{bad}");
    }
    assert!(wrong_arrows(&SourceFile::planted("src/store/chunks.rs", "use crate::format::seal;")).is_empty());
}

#[test]
fn the_arrows_have_no_cycle() {
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut left: Vec<&str> = arrows.keys().copied().collect();
    while !left.is_empty() {
        let before = left.len();
        let still = left.clone();
        left.retain(|module| arrows[module].iter().any(|named| still.contains(named)));
        assert!(left.len() < before, "a cycle among {left:?}");
    }
}

#[test]
fn crates_stay_in_their_modules() {
    holds(
        |file| {
            let module = file.module();
            let stranger = |line: &str| CRATES.iter().find(|(name, at)| names(line, name) && !at.contains(&module));
            let found = file.code().filter_map(|(number, line)| Some((number, stranger(line)?.0)));
            found.map(|(number, name)| file.offence(number, &format!("{module} must not name {name}"))).collect()
        },
        SourceFile::planted("src/files/put.rs", "use mongodb::bson::doc;\n"),
    );
}

#[test]
fn http_knows_documents_but_no_database() {
    holds(
        |file| {
            let is_use = |line: &str| {
                line.contains("crate::store::") && (has_word(line, "Store") || has_word(line, "StoreError"))
            };
            let found = file.code().filter(|(_, line)| file.module() == "http" && is_use(line));
            found.map(|(number, _)| file.offence(number, "http must not name the store itself")).collect()
        },
        SourceFile::planted("src/http/view.rs", "use crate::store::{Id, Store};\n"),
    );
}

#[test]
fn format_is_pure() {
    holds(
        |file| {
            let impure = |line: &str| IMPURE.iter().find(|name| names(line, name)).copied();
            let found = file.code().filter(|_| file.module() == "format");
            let found = found.filter_map(|(number, line)| Some((number, impure(line)?)));
            found.map(|(number, name)| file.offence(number, &format!("format must not name {name}"))).collect()
        },
        SourceFile::planted("src/format/seal.rs", "use std::time::SystemTime;\n"),
    );
}

#[test]
fn now_comes_from_the_clock() {
    holds(
        |file| {
            let is_allowed = CLOCK_READERS.iter().any(|(path, _)| *path == file.path);
            let found = file.code().filter(|(_, line)| {
                !is_allowed && (line.contains("SystemTime::now()") || line.contains("DateTime::now()"))
            });
            found.map(|(number, _)| file.offence(number, "reads the system's clock")).collect()
        },
        SourceFile::planted("src/files/put.rs", "let now = SystemTime::now();\n"),
    );
}

#[test]
fn names_say_what_a_file_holds() {
    holds(
        |file| {
            let words = file.path.trim_end_matches(".rs").split('/').skip(1);
            let is_bad = |word: &str| {
                BANNED_NAMES.contains(&word)
                    || word == "mod"
                    || word == "process"
                    || BANNED_AFFIXES.iter().any(|affix| word.ends_with(affix) || word.starts_with(affix))
            };
            words.filter(|word| is_bad(word)).map(|word| file.offence(1, &format!("{word:?} says nothing"))).collect()
        },
        SourceFile::planted("src/files/utils.rs", "//! x\n"),
    );
}

#[test]
fn files_fit_in_the_head() {
    holds(
        |file| {
            let lines = file.product().len();
            let exception = LONG_FILES.iter().find(|(path, ..)| *path == file.path);
            let limit = exception.map_or(MAX_FILE_LINES, |(_, limit, _)| *limit);
            if lines <= limit { Vec::new() } else { vec![file.offence(lines, &format!("longer than {limit} lines"))] }
        },
        SourceFile::planted("src/a.rs", &"//! x\n".repeat(MAX_FILE_LINES + 1)),
    );
    for (path, ..) in LONG_FILES {
        assert!(root().join(path).exists(), "{path} is gone: so goes its exception");
    }
}

/// In formatted code a function ends at the first line that is its own indentation and a brace.
fn long_functions(file: &SourceFile) -> Vec<String> {
    let lines = file.product();
    let mut offences = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let signature = code.split('(').next().unwrap_or_default();
        if code.starts_with("//") || !signature.split(' ').any(|word| word == "fn") {
            continue;
        }
        let end = format!("{}}}", " ".repeat(line.len() - code.len()));
        let len = lines[start..].iter().position(|line| *line == end).unwrap_or(0) + 1;
        if len > MAX_FUNCTION_LINES {
            offences.push(file.offence(start + 1, &format!("a function of {len} lines")));
        }
    }
    offences
}

#[test]
fn functions_fit_on_a_screen() {
    let body = "    let x = 1;\n".repeat(MAX_FUNCTION_LINES);
    holds(long_functions, SourceFile::planted("src/a.rs", &format!("//! x\nasync fn long() {{\n{body}}}\n")));
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    holds(
        |file| {
            let marks = ["TODO", "FIXME", "XXX"];
            let is_left = |line: &str| {
                marks.iter().any(|mark| has_word(line, mark)) || line.contains("dbg!(") || line.contains("todo!(")
            };
            let found = file.text.lines().enumerate().filter(|(_, line)| is_left(line));
            found.map(|(i, _)| file.offence(i + 1, "is left for later")).collect()
        },
        SourceFile::planted("src/a.rs", "//! x\n// TODO: write it\n"),
    );
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    holds(
        |file| {
            let found = file.code().filter(|(_, line)| line.contains(".unwrap()"));
            found.map(|(number, _)| file.offence(number, "`.unwrap()`")).collect()
        },
        SourceFile::planted("src/a.rs", "//! x\nlet x = y.unwrap();\n"),
    );
}

/// The driver's acts that are awaited without a limit on how long; the driver has none.
fn unlimited(file: &SourceFile) -> Vec<String> {
    let mut offences = Vec::new();
    if file.module() != "store" || file.path == "src/store/schema.rs" {
        // At the start, where an index may take as long as it takes.
        return offences;
    }
    let code: Vec<(usize, &str)> = file.code().collect();
    let mut function = "";
    for (place, (number, line)) in code.iter().enumerate() {
        if let Some((_, signature)) = line.split_once("fn ") {
            function = signature.split(['(', '<']).next().unwrap_or_default();
        }
        for act in ACTS {
            let Some((_, rest)) = line.split_once(&format!(".{act}(")) else { continue };
            let later = code[place + 1..].iter().map(|(_, line)| *line);
            let text: String = std::iter::once(rest).chain(later).collect();
            let awaited = text.split(".await").next().unwrap_or_default();
            let is_limited = awaited.contains(".within(") || awaited.contains(".session(");
            if !is_limited && !rest.starts_with('|') && !LIMITED_BY_CALLERS.contains(&function) {
                offences.push(file.offence(*number, &format!("{act} without `.within(limit)`")));
            }
            let is_timed = [".max_time(", ".session("].iter().chain(&SCANS).any(|limit| awaited.contains(limit));
            if READS.contains(&act) && !is_timed && !rest.starts_with('|') && !UNTIMED.contains(&function) {
                offences.push(file.offence(*number, &format!("{act} without `.max_time(limit)`")));
            }
        }
    }
    offences
}

#[test]
fn no_wait_for_the_database_is_unlimited() {
    let planted = "//! x\nlet found = files.find_one(doc! {})\n    .await?;\n";
    holds(unlimited, SourceFile::planted("src/store/a.rs", planted));
    let waiting = planted.replace("\n    .await", ".within(self.limit).await");
    assert_eq!(unlimited(&SourceFile::planted("src/store/a.rs", &waiting)).len(), 1, "the server would go on");
    let limited = waiting.replace(".within", ".max_time(self.limit).within");
    assert!(unlimited(&SourceFile::planted("src/store/a.rs", &limited)).is_empty());
}

/// Operators that take a pattern, a program or words; text of users could become one.
fn patterns(file: &SourceFile) -> Vec<String> {
    let operators = ["$regex", "$where", "$function", "$accumulator", "$text", "$search", "Bson::RegularExpression"];
    let named = |line: &str| operators.into_iter().find(|operator| line.contains(operator));
    let found = file.code().filter(|_| file.module() == "store");
    let found = found.filter_map(|(number, line)| Some((number, named(line)?)));
    found.map(|(number, operator)| file.offence(number, &format!("a filter with {operator}"))).collect()
}

#[test]
fn no_filter_takes_a_pattern_or_a_program() {
    holds(patterns, SourceFile::planted("src/store/a.rs", "//! x\nlet f = doc! { \"name\": { \"$regex\": name } };\n"));
}

/// The numbers that are doubled or left out, and file names that are not a number and a title.
fn wrong_numbers(names: &[String], awaited: &[u32]) -> Vec<String> {
    let mut offences = Vec::new();
    let mut seen = BTreeMap::new();
    for name in names {
        let number = name.split_once('-').filter(|(digits, _)| digits.len() == 4);
        match number.and_then(|(digits, _)| digits.parse::<u32>().ok()) {
            None => offences.push(format!("{name} is not NNNN-title.md")),
            Some(number) => {
                if let Some(other) = seen.insert(number, name) {
                    offences.push(format!("{name} and {other} have one number"));
                }
            }
        }
    }
    let last = seen.keys().next_back().copied().unwrap_or(0);
    let gaps = (0..last).filter(|number| !seen.contains_key(number) && !awaited.contains(number));
    offences.extend(gaps.map(|number| format!("there is no decision {number:04}")));
    offences
}

#[test]
fn decisions_are_numbered_one_by_one() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(wrong_numbers(&names(&["0000-a.md", "0002-b.md"]), &[]).len(), 1);
    assert_eq!(wrong_numbers(&names(&["0000-a.md", "0000-b.md", "1-c.md"]), &[]).len(), 2);
    let found: Vec<String> =
        files_with("docs/decisions", "md").iter().map(|file| file.path.replace("docs/decisions/", "")).collect();
    let offences = wrong_numbers(&found, &[]);
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

/// The locked crates that `deny.toml` refuses by their version: its list holds where no tool is at hand.
fn refused_versions(deny: &str, lock: &str) -> Vec<String> {
    let number = |version: &str| -> Vec<u64> { version.split('.').map_while(|part| part.parse().ok()).collect() };
    let entries = deny.split("crate = \"").skip(1).filter_map(|rest| rest.split('"').next()?.split_once(":<"));
    let floors: BTreeMap<&str, Vec<u64>> = entries.map(|(name, floor)| (name, number(floor))).collect();
    let locked = lock.split("[[package]]").filter_map(|package| {
        let field = |key: &str| package.split_once(&format!("\n{key} = \""))?.1.split('"').next();
        field("name").zip(field("version"))
    });
    let refused = locked.filter(|(name, version)| floors.get(name).is_some_and(|floor| number(version) < *floor));
    refused.map(|(name, version)| format!("{name} {version}")).collect()
}

#[test]
fn no_version_with_a_known_hole_is_locked() {
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    for name in ["aes-gcm", "bytes", "h2", "time", "tracing-subscriber"] {
        assert!(deny.contains(&format!("crate = \"{name}:<")), "{name} has no floor in deny.toml");
        let planted = format!("[[package]]\nname = \"{name}\"\nversion = \"0.0.9\"\n");
        assert_eq!(refused_versions(&deny, &planted), [format!("{name} 0.0.9")]);
    }
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    assert!(lock.contains("name = \"h2\""), "the lock file was read");
    assert_eq!(refused_versions(&deny, &lock), Vec::<String>::new());
}

/// Whether a source has a test of this name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().collect();
    let is_it = |line: &&str| line.contains(&format!("fn {name}("));
    lines.iter().position(is_it).is_some_and(|at| {
        lines[at.saturating_sub(4)..at].iter().any(|line| line.contains("#[test]") || line.contains("#[tokio::test"))
    })
}

/// What is wrong in tables of cases: tests that nobody has, rows without one that give no reason, and cases that stand
/// there twice. Tests are in the third cell; reasons in a fourth, where there is one.
fn wrong_cases(table: &str) -> Vec<String> {
    let mut offences = Vec::new();
    let mut seen = BTreeSet::new();
    let is_case = |cell: &str| cell.split_once('-').is_some_and(|(_, number)| number.parse::<u32>().is_ok());
    for row in table.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let (case, tests, missing) = match cells[..] {
            [case, ..] if !is_case(case) => continue,
            [case, _, tests] => (case, tests, ""),
            [case, _, tests, missing] => (case, tests, missing),
            _ => {
                offences.push(format!("{row} has neither three cells nor four"));
                continue;
            }
        };
        if !seen.insert(case) {
            offences.push(format!("{case} stands there twice"));
        }
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() && missing.is_empty() {
            offences.push(format!("{case} has neither a test nor a reason"));
        }
        for test in tests {
            let (module, name) = test.rsplit_once("::").unwrap_or((test, ""));
            let path = if module.starts_with("src/") { module.to_owned() } else { format!("tests/it/{module}.rs") };
            if !fs::read_to_string(root().join(path)).is_ok_and(|source| has_test(&source, name)) {
                offences.push(format!("{case}: there is no test {test}"));
            }
        }
    }
    offences
}

#[test]
fn every_case_names_tests_that_are_there() {
    let planted = "| A-01 | x | `sweep::no_such_test`, `tidy::has_test` | |\n| A-01 | x | |\n| A-02 | x |\n";
    assert_eq!(wrong_cases(planted).len(), 5, "{:?}", wrong_cases(planted));
    let reliability = [("INT", 5), ("ENC", 10), ("DED", 3), ("LIF", 8), ("SES", 8), ("OPS", 7)];
    let security = [
        ("HTTP", 11),
        ("PATH", 3),
        ("UP", 8),
        ("META", 5),
        ("XSS", 6),
        ("RNG", 6),
        ("AUTH", 7),
        ("SHR", 6),
        ("QRY", 6),
    ];
    for (path, counts) in [("docs/reliability.md", &reliability[..]), ("docs/security.md", &security)] {
        let document = fs::read_to_string(root().join(path)).unwrap();
        let table = document.split("\n## ").find(|section| section.starts_with("Cases")).unwrap();
        for (section, count) in counts {
            assert_eq!(table.matches(&format!("\n| {section}-")).count(), *count, "cases of {section} in {path}");
        }
        let offences = wrong_cases(table);
        assert!(offences.is_empty(), "\n{}", offences.join("\n"));
    }
}

/// The targets of a document's links that lead nowhere.
fn dead_links(file: &SourceFile) -> Vec<String> {
    let folder = root().join(&file.path);
    let mut offences = Vec::new();
    let mut is_fenced = false;
    for (i, line) in file.text.lines().enumerate() {
        is_fenced ^= line.trim_start().starts_with("```");
        let targets = line.match_indices("](").map(|(at, _)| &line[at + 2..]);
        for target in targets.filter(|_| !is_fenced).filter_map(|rest| rest.split(')').next()) {
            let path = target.split(['#', ' ']).next().unwrap_or_default();
            let is_elsewhere = path.is_empty() || path.contains(':');
            if !is_elsewhere && !folder.parent().unwrap().join(path).exists() {
                offences.push(file.offence(i + 1, &format!("{target} leads nowhere")));
            }
        }
    }
    offences
}

#[test]
fn links_in_documents_lead_somewhere() {
    let planted = SourceFile::planted("docs/a.md", "[x](nowhere.md) [y](https://example.org) [z](#here)\n");
    assert_eq!(dead_links(&planted).len(), 1);
    let offences: Vec<String> = files_with(".", "md").iter().flat_map(dead_links).collect();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

/// The settings that no comment explains: above them, or for buckets in the comment above all buckets.
fn unexplained(settings: &str) -> Vec<String> {
    let mut offences = Vec::new();
    let (mut section, mut before, mut buckets) = ("", "", String::new());
    for line in settings.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if line.starts_with("# Buckets.") || line.starts_with('#') && !buckets.is_empty() {
            buckets.push_str(line);
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(['"', ' '])) {
            let is_explained =
                if section.starts_with("buckets.") { has_word(&buckets, key) } else { before.starts_with('#') };
            if !is_explained {
                offences.push(format!("{section}.{key} has no comment"));
            }
        }
        before = line;
    }
    offences
}

#[test]
fn every_setting_is_explained() {
    assert_eq!(unexplained("# yes\na = 1\nb = 2\n"), [".b has no comment"]);
    assert_eq!(unexplained("# Buckets. `c` is this.\n[buckets.x]\nc = 1\nd = 2\n"), ["buckets.x.d has no comment"]);
    let offences = unexplained(gridgate::config::DEFAULTS);
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}
