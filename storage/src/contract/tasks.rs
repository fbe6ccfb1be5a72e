//! Task records: versioned, listed newest first, found by text.

use super::sample::{EPOCH, insert, key, last, lines, record};
use crate::{
    Claim, EpochStart, LogStore, Outcome, ProducerRecord, Proof, Recovery, StoredTask, TaskFilter, TaskKey, TaskRecord,
    TaskStatus,
};

async fn put(store: &dyn LogStore, record: &TaskRecord) {
    store.put_task(record).await.expect("put_task");
}

async fn get(store: &dyn LogStore, task: &TaskKey) -> Option<StoredTask> {
    store.task(task).await.expect("task")
}

/// Every task of the filter, in pages of so many.
async fn list(store: &dyn LogStore, filter: &TaskFilter, limit: usize) -> Vec<TaskKey> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.tasks(filter, after.as_ref(), limit).await.expect("tasks");
        assert!(page.tasks.len() <= limit);
        assert!(!page.tasks.is_empty() || page.next.is_none(), "an empty page says that more follow");
        found.extend(page.tasks.into_iter().map(|task| task.record.task));
        assert!(found.len() < 10_000, "the pages never end");
        match page.next {
            None => return found,
            next => after = next,
        }
    }
}

async fn names(store: &dyn LogStore, filter: &TaskFilter) -> Vec<String> {
    list(store, filter, 100).await.iter().map(ToString::to_string).collect()
}

/// All of its fields.
pub async fn record_comes_back(store: &dyn LogStore) {
    let task = TaskKey::new("team", "t").expect("a valid name");
    let proof = Proof { lines: 3, bytes: i64::MAX as u64, digest: "ab".repeat(32) };
    let claims = [
        Claim { final_seq: i64::MAX as u64, proof: Some(proof), recovery: None },
        Claim { final_seq: 0, proof: None, recovery: Some(Recovery::Damaged) },
    ];
    let [proven, recovered] = claims.map(Some);
    let producer = |id: &str, owner, outcome, claim| ProducerRecord { id: id.to_owned(), owner, outcome, claim };
    let outcome = Outcome { status: TaskStatus::Failed, exit_code: Some(-9) };
    let full = TaskRecord {
        task: task.clone(),
        version: i64::MAX as u64,
        workflow_id: "wf '\"\\ \u{1f389}".to_owned(),
        name: "a name\nof two lines %_".to_owned(),
        labels: [("k", "v"), ("", ""), ("quo\"te", "\u{e9}'\\")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        attempt: u32::MAX,
        attempt_base: 12,
        dropped: 7,
        status: TaskStatus::Lost,
        exit_code: Some(i32::MIN),
        created_at_ms: 5,
        started_at_ms: 6,
        ended_at_ms: Some(7),
        epochs: vec![EpochStart { epoch: EPOCH, base: 0 }, EpochStart { epoch: EPOCH + 1, base: 44 }],
        producers: vec![
            producer("07", true, Some(outcome), proven),
            producer("08", false, Some(outcome), recovered),
            producer("09", false, None, None),
        ],
    };
    put(store, &full).await;
    assert_eq!(get(store, &task).await, Some(StoredTask { record: full, floor: 1, end: 0 }));
    assert_eq!(get(store, &key("t")).await, None, "another tenant");
    let bare = record(&key("bare"));
    put(store, &bare).await;
    assert_eq!(get(store, &key("bare")).await.map(|stored| stored.record), Some(bare));
}

/// The highest version stays; the same one may be written again.
pub async fn versions(store: &dyn LogStore) {
    let at = |version, name: &str| TaskRecord { version, name: name.to_owned(), ..record(&key("t")) };
    for (written, kept) in [((2, "a"), "a"), ((1, "late"), "a"), ((2, "b"), "b"), ((3, "c"), "c"), ((2, "late"), "c")] {
        put(store, &at(written.0, written.1)).await;
        assert_eq!(get(store, &key("t")).await.expect("a record").record.name, kept);
    }
}

/// Lines need no record, and the record does not touch what is known of them.
pub async fn insert_before_record(store: &dyn LogStore) {
    let task = key("t");
    insert(store, &task, &lines(1..=9)).await;
    assert_eq!(get(store, &task).await, None);
    assert_eq!(names(store, &TaskFilter::default()).await, [""; 0]);
    store.delete_before(4).await.expect("delete");
    let before = last(store, &task).await;
    put(store, &record(&task)).await;
    put(store, &TaskRecord { version: 2, ..record(&task) }).await;
    let stored = get(store, &task).await.expect("a record");
    assert_eq!((stored.floor, stored.end), (4, 9));
    assert_eq!(last(store, &task).await, before);
}

/// Newest first, ties by tenant and id, each once whatever the page size.
pub async fn paging_with_equal_times(store: &dyn LogStore) {
    let mut expected = Vec::new();
    for time in [30, 20, 10] {
        for tenant in ["a", "b", "default"] {
            for n in 0..4 {
                expected.push((time, TaskKey::new(tenant, &format!("t{time}-{n}")).expect("a valid name")));
            }
        }
    }
    for (created_at_ms, task) in expected.iter().rev() {
        put(store, &TaskRecord { created_at_ms: *created_at_ms, ..record(task) }).await;
    }
    let expected: Vec<_> = expected.into_iter().map(|(_, task)| task).collect();
    for limit in [1, 2, 3, 5, 11, 12, 35, 36, 37, 1000] {
        assert_eq!(list(store, &TaskFilter::default(), limit).await, expected, "limit {limit}");
        let filter = TaskFilter { tenant: Some("b".to_owned()), ..TaskFilter::default() };
        let of_b: Vec<_> = expected.iter().filter(|task| task.tenant() == "b").cloned().collect();
        assert_eq!(list(store, &filter, limit).await, of_b, "limit {limit}");
    }
}

/// Status, tenant and text narrow each other.
pub async fn filters(store: &dyn LogStore) {
    for (status, n) in TaskStatus::ALL.into_iter().zip(0..) {
        for tenant in ["", "other"] {
            let task = TaskKey::new(tenant, &format!("job-{}", status.name())).expect("a valid name");
            put(store, &TaskRecord { status, created_at_ms: n, name: "Nightly IMPORT".to_owned(), ..record(&task) })
                .await;
        }
    }
    let filter = |tenant: Option<&str>, status, text: Option<&str>| TaskFilter {
        tenant: tenant.map(str::to_owned),
        status,
        text: text.map(str::to_owned),
    };
    let lost = Some(TaskStatus::Lost);
    assert_eq!(names(store, &filter(None, lost, None)).await, ["job-lost", "other/job-lost"]);
    assert_eq!(names(store, &filter(Some("other"), lost, None)).await, ["other/job-lost"]);
    assert_eq!(names(store, &filter(Some("default"), None, Some("FAIL"))).await, ["job-failed"]);
    assert_eq!(names(store, &filter(Some("other"), None, Some("nightly import"))).await.len(), 4);
    assert_eq!(names(store, &filter(None, None, Some(""))).await.len(), 8);
    assert_eq!(names(store, &filter(Some("nobody"), None, None)).await, [""; 0]);
    assert_eq!(names(store, &filter(None, lost, Some("fail"))).await, [""; 0]);
}

/// What means something in a pattern means itself here.
pub async fn text_is_literal(store: &dyn LogStore) {
    for (task, name) in
        [("a", "100% done"), ("b", "under_score"), ("c", "back\\slash"), ("d", "o'clock"), ("e", "[x]*?")]
    {
        put(store, &TaskRecord { name: name.to_owned(), ..record(&key(task)) }).await;
    }
    for (text, expected) in [
        ("%", "a"),
        ("0% D", "a"),
        ("_", "b"),
        ("r_s", "b"),
        ("\\", "c"),
        ("k\\s", "c"),
        ("'", "d"),
        ("[X]", "e"),
        ("*", "e"),
        ("?", "e"),
    ] {
        let filter = TaskFilter { text: Some(text.to_owned()), ..TaskFilter::default() };
        assert_eq!(names(store, &filter).await, [expected], "text {text:?}");
    }
    let filter = TaskFilter { text: Some("%d".to_owned()), ..TaskFilter::default() };
    assert_eq!(names(store, &filter).await, [""; 0]);
}
