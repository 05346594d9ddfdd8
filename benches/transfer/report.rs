//! What was measured: samples, their medians, ratios of pairs from one round, and the table.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// One measurement.
pub struct Sample {
    suite: &'static str,
    /// What was done, the same for all who did it.
    case: String,
    /// Who did it.
    who: String,
    round: usize,
    values: Vec<(&'static str, f64)>,
}

/// A figure that every round measured: case, who, name of the value.
pub type Figure<'a> = (&'a str, &'a str, &'a str);

#[derive(Default)]
pub struct Report {
    samples: Vec<Sample>,
}

impl Report {
    pub fn add(
        &mut self,
        suite: &'static str,
        case: &str,
        who: &str,
        round: usize,
        values: impl Into<Vec<(&'static str, f64)>>,
    ) {
        let values = values.into();
        eprintln!("{suite} {round}: {case}: {who}: {}", described(&values));
        self.samples.push(Sample { suite, case: case.to_owned(), who: who.to_owned(), round, values });
    }

    pub fn median(&self, figure: Figure) -> Option<f64> {
        median(self.by_round(figure).into_values().collect())
    }

    /// The median of the rounds' ratios.
    pub fn ratio(&self, over: Figure, under: Figure) -> Option<f64> {
        let under = self.by_round(under);
        median(self.by_round(over).iter().filter_map(|(round, value)| Some(value / under.get(round)?)).collect())
    }

    fn by_round(&self, (case, who, name): Figure) -> BTreeMap<usize, f64> {
        let samples = self.samples.iter().filter(|sample| sample.case == case && sample.who == who);
        samples
            .filter_map(|sample| Some((sample.round, sample.value(name)?)))
            .filter(|(_, value)| value.is_finite())
            .collect()
    }

    /// One line a measurement.
    pub fn lines(&self) -> impl Iterator<Item = Value> {
        self.samples.iter().map(|sample| {
            let mut line = Map::new();
            line.insert("suite".to_owned(), json!(sample.suite));
            line.insert("case".to_owned(), json!(sample.case));
            line.insert("who".to_owned(), json!(sample.who));
            line.insert("round".to_owned(), json!(sample.round));
            let known = sample.values.iter().filter(|(_, value)| value.is_finite());
            line.extend(known.map(|(name, value)| ((*name).to_owned(), json!(rounded(*value)))));
            Value::Object(line)
        })
    }

    /// Medians in Markdown; "of the first" is a ratio of pairs, of the first value to that of who stands first.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut heading = Vec::new();
        let mut rows: Vec<&Sample> = Vec::new();
        for sample in &self.samples {
            let is_known = |row: &&Sample| row.case == sample.case && row.who == sample.who;
            if rows.iter().any(is_known) {
                continue;
            }
            rows.push(sample);
        }
        rows.sort_by_key(|row| self.place_of_case(row));
        for row in &rows {
            let names: Vec<&str> = row.values.iter().map(|(name, _)| *name).collect();
            if names != heading {
                text += &format!("\n| {} | | of the first | {} |\n|---|---|", row.suite, names.join(" | "));
                text += &format!("{}\n", "---|".repeat(names.len() + 1));
                heading = names;
            }
            text += &self.row(row, rows.iter().find(|first| first.case == row.case).copied().unwrap_or(row));
        }
        text
    }

    fn place_of_case(&self, row: &Sample) -> usize {
        self.samples.iter().position(|sample| sample.case == row.case).unwrap_or(usize::MAX)
    }

    fn row(&self, row: &Sample, first: &Sample) -> String {
        let figure = |sample: &Sample, name| self.ratio((&row.case, &row.who, name), (&sample.case, &sample.who, name));
        let ratio = row.values.first().and_then(|(name, _)| figure(first, name)).map(short).unwrap_or_default();
        let medians = row.values.iter().map(|(name, _)| self.median((&row.case, &row.who, name)));
        let medians: Vec<String> = medians.map(|median| median.map_or("–".to_owned(), short)).collect();
        format!("| {} | {} | {ratio} | {} |\n", row.case, row.who, medians.join(" | "))
    }
}

impl Sample {
    fn value(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }
}

/// The middle value, or the mean of the middle two.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { (values[middle - 1] + upper) / 2.0 } else { upper })
}

/// A number with about three digits.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

fn described(values: &[(&str, f64)]) -> String {
    values.iter().map(|(name, value)| format!("{name} {}", short(*value))).collect::<Vec<_>>().join(", ")
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
