//! What processes use of the machine, from `/proc`: time, processor, memory.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use crate::Outcome;

const TICKS_PER_SEC: f64 = 100.0;
const KIB_PER_MIB: f64 = 1024.0;

/// User and system time of a process so far.
fn cpu_secs(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |n: usize| after_name.split_whitespace().nth(n).and_then(|field| field.parse::<f64>().ok());
    Ok((ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS_PER_SEC)
}

fn cpu_secs_of([server, mongod, client]: [u32; 3]) -> io::Result<[f64; 3]> {
    Ok([cpu_secs(server)?, cpu_secs(mongod)?, cpu_secs(client)?])
}

/// What something cost between two moments.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub secs: f64,
    pub server_cpu: f64,
    pub mongod_cpu: f64,
    /// This program's own, where it is not the server: what making the requests takes from the same cores.
    pub client_cpu: f64,
}

/// Measures what a server, the mongod behind it and this program before it spend.
pub struct Meter {
    begun: Instant,
    pids: [u32; 3],
    before: [f64; 3],
}

impl Meter {
    pub fn start(server: u32, mongod: u32) -> Outcome<Self> {
        let pids = [server, mongod, std::process::id()];
        Ok(Self { before: cpu_secs_of(pids)?, begun: Instant::now(), pids })
    }

    pub fn stop(&self) -> Outcome<Cost> {
        let secs = self.begun.elapsed().as_secs_f64();
        let now = cpu_secs_of(self.pids)?;
        let [server_cpu, mongod_cpu, client_cpu] = std::array::from_fn(|i| now[i] - self.before[i]);
        let [server, _, client] = self.pids;
        let client_cpu = if server == client { f64::NAN } else { client_cpu };
        Ok(Cost { secs, server_cpu, mongod_cpu, client_cpu })
    }
}

/// The memory of a process over what it had when this was made.
pub struct Memory {
    pid: u32,
    idle_mib: f64,
}

impl Memory {
    /// Forgets the peak so far.
    pub fn watch(pid: u32) -> Outcome<Self> {
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        Ok(Self { pid, idle_mib: memory_mib(pid, "VmRSS:")? })
    }

    pub fn peak_mib(&self) -> Outcome<f64> {
        Ok(memory_mib(self.pid, "VmHWM:")? - self.idle_mib)
    }

    /// What it holds once that has been the same for a second, or after 10 s.
    pub async fn settled_mib(&self) -> Outcome<f64> {
        let mut last = f64::NAN;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = memory_mib(self.pid, "VmRSS:")?;
            if (now - last).abs() < 1.0 {
                break;
            }
            last = now;
        }
        Ok(memory_mib(self.pid, "VmRSS:")? - self.idle_mib)
    }
}

fn memory_mib(pid: u32, field: &str) -> Outcome<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    Ok(kib.ok_or("the kernel tells no memory use")? / KIB_PER_MIB)
}

/// The machine in a few words, and how busy it is.
pub fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = name.map_or("an unknown processor", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0);
    format!("{cores} cores, {name}, {:.0} GiB", kib / KIB_PER_MIB / 1024.0)
}

/// The load average of the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}
