//! The suites: each runs its rounds and adds what it measured to the report.

pub mod finish;
pub mod growth;
pub mod large;
pub mod memory;
pub mod ranges;
pub mod small;

use crate::Outcome;
use crate::arguments::Suite;
use crate::lab::Lab;

pub async fn run(suite: Suite, lab: &mut Lab) -> Outcome<()> {
    match suite {
        Suite::Large => large::run(lab).await,
        Suite::Small => small::run(lab).await,
        Suite::Ranges => ranges::run(lab).await,
        Suite::Memory => memory::run(lab).await,
        Suite::Finish => finish::run(lab).await,
        Suite::Growth => growth::run(lab).await,
    }
}
