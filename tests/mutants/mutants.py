"""The mutants: each breaks one promise by a change of one file, and names the test that must notice."""

from dataclasses import dataclass


@dataclass
class Mutant:
    name: str
    breaks: str
    file: str
    find: str
    replace: str
    #: Test binary of flowforge-tests, or whose unit tests (`server/src`), and name of the test.
    caught_by: tuple[str, str]


MUTANTS = [
    Mutant(
        "digest-not-compared",
        "Verified means that what is stored is what was sent.",
        "server/src/proof/verdict.rs",
        """        (proof.digest != hex(&fold.digest)).then(||""",
        """        false.then(||""",
        ("e2e", "proof::a_changed_row_is_noticed"),
    ),
    Mutant(
        "holes-not-noticed",
        "Verified means that every number is stored once.",
        "server/src/proof/reading.rs",
        """        if begin > expected {
""",
        """        if begin > expected && row.seq == 0 {
""",
        ("e2e", "proof::a_missing_row_and_one_too_many_are_named"),
    ),
    Mutant(
        "ack-before-commit",
        "An ack means stored.",
        "server/src/writer/mod.rs",
        """            self.store_delivery(&delivery).await;
            fail_point::pass(FailPoint::Committed);
            self.broker.stored(delivery).await;
""",
        """            self.broker.stored(Delivery { batches: delivery.batches.clone() }).await;
            self.store_delivery(&delivery).await;
""",
        ("e2e", "crash::a_line_shown_but_never_stored_is_taken_back_and_comes_again"),
    ),
    Mutant(
        "history-before-subscribe",
        "Subscribe, then read the position, then scan.",
        "server/src/tail/mod.rs",
        """                position = self.look().await?;
                if !self.request.follow &&""",
        """                // History up to the end that was there at first, then whatever comes from now on.
                if live {
                    position = self.look().await?;
                } else if self.next > position.end {
                    position = self.look().await?;
                    self.next = position.end + 1;
                }
                if !self.request.follow &&""",
        ("e2e", "opens::two_hundred_random_opens_miss_nothing_and_repeat_nothing"),
    ),
    Mutant(
        "publish-before-append",
        "Publishing is the last step of an atomic append.",
        "server/src/broker/memory/session.rs",
        """        let published = {
""",
        """        {
            let (first, epoch) = {
                let state = self.slot.lock();
                (state.end + 1, state.position().epoch().epoch)
            };
            let early = lines.iter().cloned().zip(0..).map(|(line, at)| {
                crate::broker::record_of(line, self.producer, first_seq + at, first + at, epoch, now_ms())
            });
            let batch = crate::broker::Batch::new(self.slot.key.clone(), self.producer, early.collect());
            self.slot.feed.push(Arc::new(batch));
            self.slot.feed.wake();
        }
        let published = {
""",
        ("e2e", "protocol::a_gap_in_the_numbers_is_answered_with_resync_and_repeats_are_dropped"),
    ),
    Mutant(
        "dedupe-off",
        "What is already there is dropped.",
        "server/src/broker/task/state.rs",
        """        if seq <= queued {
            return None;
        }
""",
        "",
        ("e2e", "protocol::a_gap_in_the_numbers_is_answered_with_resync_and_repeats_are_dropped"),
    ),
    Mutant(
        "batch-dropped-on-a-failed-insert",
        "What the store cannot take now is tried again for as long as it takes.",
        "server/src/writer/mod.rs",
        """                sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                delay = (delay * 2).min(RETRY_MOST);
""",
        """                sleep(delay).await;
                delay = RETRY_MOST;
                return Ok(());
""",
        ("e2e", "shutdown::sigterm_with_a_blocked_store_ends_in_time_and_says_what_is_left"),
    ),
    Mutant(
        "canary-misses-lines",
        "The canary notices a line that does not come.",
        "server/src/canary/read.rs",
        """        let Some(number) = number else { return };""",
        """        let Some(number) = number.filter(|number| number % 97 != 5) else { return };""",
        ("e2e", "canary::an_ordinary_task_that_is_seen_and_ends_well"),
    ),
    Mutant(
        "trim-by-maxlen",
        "What waits for the store is trimmed by what is stored, never by length.",
        "server/src/broker/redis/rows.lua",
        """redis.call('XADD', keys.stream, '*',""",
        """redis.call('XADD', keys.stream, 'MAXLEN', '=', 4, '*',""",
        ("e2e", "redis::a_worker_is_killed"),
    ),
    Mutant(
        "pending-not-claimed",
        "Who takes over a worker's share begins with what that one was given.",
        "server/src/broker/redis/take.lua",
        """return {'ok', claimed[1], claimed[2]}""",
        """return {'ok', claimed[1], {}}""",
        ("e2e", "redis::a_worker_is_killed"),
    ),
    Mutant(
        "forgotten-when-queued",
        "A client keeps a line until it is stored, not until the server has it.",
        "client/src/state.rs",
        """        self.queue.ack(stored);
""",
        """        self.queue.ack(queued.max(stored));
""",
        ("client/src", "state::tests::what_the_server_has_and_has_not_stored_is_kept"),
    ),
    Mutant(
        "nothing-taken-back",
        "A line that a reader saw and the server lost is taken back first.",
        "server/src/tail/resume.rs",
        """Resume::RollbackTo(base.min(position.end)),""",
        """Resume::After(place.offset.min(position.end)),""",
        ("e2e", "crash::a_line_shown_but_never_stored_is_taken_back_and_comes_again"),
    ),
    Mutant(
        "fences-off",
        "One stream at a time speaks for a producer.",
        "server/src/broker/task/state.rs",
        """        if progress.generation == generation { Ok(progress) }""",
        """        if progress.generation >= generation { Ok(progress) }""",
        ("server/src", "broker::contract::memory::the_newest_session_fences"),
    ),
    Mutant(
        "leases-for-ever",
        "A producer that has gone silent ends.",
        "server/src/broker/task/state.rs",
        """matches!(self.lease, Lease::Until(until) if until <= now)""",
        """matches!(self.lease, Lease::Until(until) if until > now && until <= now)""",
        ("e2e", "protocol::a_lease_that_runs_out_ends_the_task_as_lost_and_a_comeback_reopens_it"),
    ),
    Mutant(
        "refused-with-its-neighbours",
        "A row that no store takes costs no other row.",
        "server/src/writer/mod.rs",
        """            poison::insert_around(self, &lines).await;
""",
        "",
        ("e2e", "shutdown::a_poison_row_is_replaced_and_its_neighbours_are_not"),
    ),
    Mutant(
        "queue-without-a-bound",
        "What waits for the store has a bound; beyond it producers wait.",
        "server/src/broker/queue.rs",
        """        inner.size.bytes < self.limits.max_bytes
            && inner.tenant_bytes.get(tenant).is_none_or(|bytes| *bytes < self.limits.max_tenant_bytes)
""",
        # As good as none, without taking the machine's memory.
        """        inner.size.bytes < 512 << 20 && !tenant.is_empty()
""",
        ("e2e", "shutdown::a_blocked_store_stops_the_producers_and_loses_nothing"),
    ),
    Mutant(
        "damage-not-told",
        "What a spool's damage took is counted in the log.",
        "client/src/spool/recover.rs",
        """    found.damage = damage(file, layout, &found);
""",
        """    found.damage = damage(file, layout, &found).filter(|found| *found == Damage::Unknown);
""",
        ("e2e", "spool::a_corrupt_tail_is_cut_counted_and_said"),
    ),
    Mutant(
        "pages-of-any-epoch",
        "Pages that readers share are of one epoch.",
        "server/src/tail/history.rs",
        """epoch: position.epoch().epoch, from };""",
        """epoch: 0, from };""",
        ("server/src", "tail::history::tests::another_epoch_reads_again"),
    ),
    Mutant(
        "half-lines-without-a-seal",
        "Text that has not ended is in the spool, or the line made of it, never both.",
        "client/src/spool/open.rs",
        """        self.lines.map.store(version_at(self.place, place.version), seq);
""",
        """        let _ = seq;
""",
        ("client/src", "spool::open::tests::whenever_it_dies_what_was_printed_is_there_once"),
    ),
]
