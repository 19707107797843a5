//! `tenon-matrix`: every prediction against every kernel of the lab, those of the 7 series included.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use tenon_lab::kernel::Origin;
use tenon_lab::setup::{self, Supplies};
use tenon_test_kernel::cases::Size;
use tenon_test_kernel::matrix::{self, WAYS};
use tenon_test_kernel::report::Report;
use tenon_test_kernel::shelf::Shelf;

/// The whole. `TENON_SEED` makes another choice among the kernels' own modules.
const SIZE: Size = Size { own: 30, foreign: 20, seed: 7 };
/// Fewer would show too little.
const PAIRS: usize = 300;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tenon-matrix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<bool> {
    let begin = Instant::now();
    let shelves = shelves()?;
    let seed = std::env::var("TENON_SEED").ok().map(|seed| seed.parse()).transpose().context("TENON_SEED")?;
    let size = Size { seed: seed.unwrap_or(SIZE.seed), ..SIZE };
    let mut report = Report::default();
    let runtime = tokio::runtime::Runtime::new().context("start")?;
    for on in &shelves {
        for way in WAYS {
            runtime.block_on(matrix::run(on, &shelves, way, size, &mut report));
            eprintln!("{:6.1} s  {} {way:?}", begin.elapsed().as_secs_f32(), on.kernel.release);
        }
    }
    println!("{report}");
    let wrong = report.disagreements().len();
    println!(
        "predictions: {} loads, {} pairs of module and kernel, {} kernels, {} unknown, {wrong} wrong, {} s",
        report.tried(),
        report.pairs(),
        shelves.len(),
        report.open(),
        begin.elapsed().as_secs()
    );
    anyhow::ensure!(report.pairs() >= PAIRS, "only {} pairs, not {PAIRS}", report.pairs());
    Ok(wrong == 0)
}

fn shelves() -> anyhow::Result<Vec<Shelf>> {
    let supplies = Supplies::get()?;
    let mut kernels = supplies.kernels().to_vec();
    for origin in Origin::NEWER {
        eprintln!("kernel: {origin:?}");
        kernels.push(setup::newer_kernel(origin)?);
    }
    Ok(kernels.into_iter().map(Shelf::fill).collect())
}
