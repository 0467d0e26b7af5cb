//! Commits and their floors, measured by criterion, for its history and plots.

use agentos_benches::{Floor, Ours, State};
use agentos_core::Codec;
use agentos_store::sqlite::Durability;
use criterion::{Criterion, criterion_group, criterion_main};

fn commits(criterion: &mut Criterion) {
    for durability in [Durability::Full, Durability::Relaxed] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        let state = State::sample(7);
        let bytes = Codec::Bincode
            .encode(&state)
            .expect("the state can be encoded");
        let ours = Ours::open(dir.path(), durability, 1);
        let floor = Floor::open(dir.path(), durability, 1, bytes);
        let mut group = criterion.benchmark_group(format!("append 1 KiB, {durability:?}"));
        group.bench_function("ours", |bencher| {
            bencher.iter(|| ours.append(&ours.tasks[0], &state));
        });
        group.bench_function("floor", |bencher| {
            bencher.iter(|| floor.transaction(1).expect("a transaction"));
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = commits
}
criterion_main!(benches);
