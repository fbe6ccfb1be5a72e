//! Random histories against a model that is too simple to be wrong.

use std::collections::BTreeMap;

use super::sample::{EPOCH, Random, insert, key, last, line, named, read_all, record};
use crate::{Direction, EpochStart, LogRecord, LogStore, ProducerId, ReadQuery, TaskKey, TaskRecord};

const TASKS: usize = 4;
const STEPS: u64 = 250;

/// The one producer of three that every record names.
const NAMED: ProducerId = ProducerId([1; 16]);

/// What one task should hold.
struct Model {
    task: TaskKey,
    /// Every line that counts, also those that retention deleted.
    lines: BTreeMap<u64, LogRecord>,
    floor: u64,
    /// Up to here retention has deleted every line, and with them all producers but [`NAMED`].
    forgotten: u64,
    current: EpochStart,
    version: u64,
    newest_ms: i64,
}

impl Model {
    fn new(task: usize) -> Self {
        let current = EpochStart { epoch: EPOCH, base: 0 };
        let task = key(&format!("task-{task}"));
        Self { task, lines: BTreeMap::new(), floor: 1, forgotten: 0, current, version: 1, newest_ms: 0 }
    }

    fn end(&self) -> u64 {
        self.lines.keys().next_back().copied().unwrap_or(0)
    }

    fn kept(&self) -> Vec<LogRecord> {
        self.lines.range(self.floor..).map(|(_, line)| line.clone()).collect()
    }

    fn producers(&self) -> Vec<(ProducerId, u64)> {
        let mut highest = BTreeMap::new();
        let is_known = |line: &&LogRecord| line.offset > self.forgotten || line.producer == NAMED;
        for line in self.lines.values().filter(is_known) {
            let seq: &mut u64 = highest.entry(line.producer).or_default();
            *seq = line.seq.max(*seq);
        }
        highest.into_iter().collect()
    }

    /// The next lines, as a broker would give them: each producer's numbers go on from those that count.
    fn append(&mut self, random: &mut Random, clock: i64) -> Vec<LogRecord> {
        let mut seqs: BTreeMap<_, _> = self.producers().into_iter().collect();
        let mut added = Vec::new();
        for _ in 0..=random.below(30) {
            let producer = ProducerId([1 + random.below(3) as u8; 16]);
            let seq = seqs.entry(producer).or_insert(0);
            *seq += 1;
            let offset = self.end().max(self.current.base) + 1;
            let message = format!("{clock} {offset}").into();
            let added_line = LogRecord {
                epoch: self.current.epoch,
                producer,
                seq: *seq,
                created_at_ms: clock,
                level: random.below(25) as u8,
                message,
                ..line(offset)
            };
            self.lines.insert(offset, added_line.clone());
            added.push(added_line);
        }
        self.newest_ms = clock;
        added
    }

    /// Some lines that were inserted before, deleted or not.
    fn again(&self, random: &mut Random) -> Vec<LogRecord> {
        let first = 1 + random.below(self.end() + 1);
        self.lines.range(first..).take(random.below(40) as usize).map(|(_, line)| line.clone()).collect()
    }

    /// Lines of the epoch before, above the base of the current one.
    fn stale(&self, random: &mut Random) -> Vec<LogRecord> {
        let (epoch, first) = (self.current.epoch - 1, self.current.base + 1 + random.below(5));
        let stale = |offset| LogRecord { epoch, seq: 1_000_000, message: "stale".into(), ..line(offset) };
        (first..first + 1 + random.below(20)).map(stale).collect()
    }

    /// A new epoch, with its base not below what retention deleted.
    fn raise_epoch(&mut self, random: &mut Random) {
        let lowest = self.floor - 1;
        let base = lowest + random.below(self.end() - lowest + 3);
        self.current = EpochStart { epoch: self.current.epoch + 2, base };
        self.version += 1;
        self.lines.retain(|offset, _| *offset <= base);
    }

    /// How many lines went.
    fn delete_before(&mut self, before_ms: i64) -> u64 {
        let kept = self.lines.range(self.floor..);
        let gone = kept.take_while(|(_, line)| line.created_at_ms < before_ms).count() as u64;
        if let Some((last, _)) = self.lines.range(self.floor..).take(gone as usize).last() {
            self.floor = last + 1;
            if self.floor > self.end() {
                self.forgotten = *last;
            }
        }
        gone
    }
}

/// Several seeds, so that several histories.
pub async fn random_histories(store: &dyn LogStore) {
    let mut random = Random::new(20_261_121);
    let mut models: Vec<_> = (0..TASKS).map(Model::new).collect();
    for model in &models {
        put(store, model).await;
    }
    for clock in 1..=STEPS as i64 {
        let model = &mut models[random.below(TASKS as u64) as usize];
        match random.below(10) {
            0..4 => insert(store, &model.task.clone(), &model.append(&mut random, clock)).await,
            4..6 => insert(store, &model.task, &model.again(&mut random)).await,
            6 => insert(store, &model.task, &model.stale(&mut random)).await,
            7 => {
                model.raise_epoch(&mut random);
                put(store, model).await;
            }
            8 if clock % 3 == 0 => {
                let before_ms = clock - random.below(100) as i64;
                let gone: u64 = models.iter_mut().map(|model| model.delete_before(before_ms)).sum();
                assert_eq!(store.delete_before(before_ms).await.expect("delete").lines, gone, "step {clock}");
            }
            _ => check_page(store, model, &mut random).await,
        }
        for model in &models {
            check(store, model, clock).await;
        }
    }
}

async fn put(store: &dyn LogStore, model: &Model) {
    let epochs = vec![EpochStart { epoch: EPOCH, base: 0 }, model.current];
    let record = TaskRecord { version: model.version, epochs, producers: vec![named(NAMED)], ..record(&model.task) };
    store.put_task(&record).await.expect("put_task");
}

async fn check(store: &dyn LogStore, model: &Model, step: i64) {
    assert_eq!(read_all(store, &model.task).await, model.kept(), "step {step}, {}", model.task);
    if model.newest_ms == 0 {
        return;
    }
    let stored = last(store, &model.task).await;
    assert_eq!(stored.end, model.end(), "step {step}, {}", model.task);
    assert_eq!(stored.created_at_ms, model.newest_ms, "step {step}, {}", model.task);
    assert_eq!(stored.producers, model.producers(), "step {step}, {}", model.task);
}

/// One page against the same cut of the model.
async fn check_page(store: &dyn LogStore, model: &Model, random: &mut Random) {
    let from = random.below(model.end() + 5);
    let mut query = ReadQuery::forward(from, from + random.below(200), 1 + random.below(50) as usize);
    query.filter.min_level = Some(random.below(25) as u8);
    let in_range = |line: &LogRecord| line.offset >= query.from && line.offset <= query.to;
    let mut expected: Vec<_> =
        model.kept().into_iter().filter(|line| in_range(line) && query.filter.matches(line)).collect();
    let backward = ReadQuery { direction: Direction::Backward, ..query.clone() };
    let page = store.read(&model.task, &backward).await.expect("read");
    assert_eq!(page.records, expected[expected.len().saturating_sub(query.limit)..], "{backward:?}");
    expected.truncate(query.limit);
    let page = store.read(&model.task, &query).await.expect("read");
    assert_eq!(page.records, expected, "{query:?}");
}
