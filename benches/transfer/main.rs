//! `cargo bench`: what the gateway costs over the raw database, beside the driver's own streams and
//! gateways as people write them; `cargo bench -- --help` tells what can be chosen.
//!
//! ```text
//! arguments ─ lab ─ suites/{large, small, ranges, memory, finish, growth} ─ report ─ goals ─ chart
//!              │       │
//!              │       stage: one round's servers (server, naive, peers), measured by usage
//!              │       contenders: ceiling (raw), driver (its streams), ways over http_client and load
//!              one mongod, the contents
//! ```

mod arguments;
mod ceiling;
mod chart;
mod content;
mod driver;
mod goals;
mod grow;
mod http_client;
mod lab;
mod load;
mod naive;
mod peers;
mod report;
mod saved;
mod server;
mod stage;
mod suites;
mod usage;
mod ways;

use clap::Parser;

use arguments::Arguments;
use lab::Lab;
use saved::Occasion;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    if let Some(database) = &arguments.naive {
        return naive::serve(&std::env::var("GRIDGATE_BENCH_MONGODB")?, database).await;
    }
    let occasion = Occasion::now(&arguments);
    let mut lab = Lab::open(&arguments).await?;
    let mut failed = Ok(());
    for suite in arguments.suites() {
        failed = suites::run(suite, &mut lab).await;
        if failed.is_err() {
            break;
        }
    }
    let scale = lab.scale;
    let report = lab.close().await?;
    let goals = goals::goals(&report, scale);
    let occasion = occasion.ended();
    println!("{occasion}\n{}\n{}", report.table(), goals::table(&goals));
    failed?;
    if arguments.save {
        occasion.save(&report, &goals)?;
    }
    Ok(())
}
