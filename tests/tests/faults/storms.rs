//! P1–P9 under faults that a seed chooses: see `rollcall_tests::faults`.

use std::time::Duration;

use rollcall_tests::faults::{Fault, Flush, Pace, Storm, Tally, Totals, in_world};

/// Of the kinds that are possible here, what must have happened for a run to prove anything.
fn really_happened(tally: &Tally, kinds: &[Fault], totals: Totals) {
    let missing: Vec<&Fault> =
        kinds.iter().filter(|kind| !kind.is_of_network() && !tally.faults.contains_key(kind)).collect();
    assert!(missing.is_empty(), "{missing:?} never happened");
    assert!(
        totals.acknowledged > 100 && totals.reads > 100 && totals.beats > 30,
        "hardly anything was asked: {totals:?}"
    );
}

fn each_once(nodes: usize, seed: u64, kinds: &[Fault]) {
    in_world(nodes, seed, async |mut world| {
        let run = world.run(Pace::STEADY, seed);
        run.progress(50).await;
        let mut storm = Storm::new(seed, kinds, &world);
        storm.each_once(&mut world, &run).await;
        let totals = run.judge(&mut world).await;
        really_happened(&storm.tally, kinds, totals);
        if world.network.is_some() && kinds.contains(&Fault::Lossy) {
            let packets = storm.tally.packets;
            assert!(packets.cut > 0 && packets.lost > 0 && packets.overtaken > 0, "{packets:?}");
        }
    });
}

#[test]
fn promises_hold_when_processes_die_and_freeze() {
    each_once(
        3,
        1,
        &[
            Fault::Kill,
            Fault::KillLeader,
            Fault::KillAll,
            Fault::KillAtStep,
            Fault::KillAtStep,
            Fault::HandOver,
            Fault::Freeze,
            Fault::FreezeLeader,
        ],
    );
}

#[test]
fn promises_hold_when_disks_lose_power_and_fail_and_clocks_jump() {
    each_once(
        3,
        2,
        &[
            Fault::ClockJump,
            Fault::PowerLoss,
            Fault::PowerLossOfAll,
            Fault::ClockJump,
            Fault::FailingFlush,
            Fault::NoDescriptors,
            Fault::PowerLossOfAll,
        ],
    );
}

#[test]
fn promises_hold_when_the_network_cuts_and_loses() {
    each_once(3, 3, &[Fault::Isolate, Fault::IsolateLeader, Fault::OneWay, Fault::Partial, Fault::Lossy]);
}

#[test]
fn promises_hold_when_five_nodes_meet_several_faults_at_once() {
    const SEED: u64 = 5;
    in_world(5, SEED, async |mut world| {
        let run = world.run(Pace::STEADY, SEED);
        run.progress(50).await;
        let mut storm = Storm::new(SEED, &Fault::ALL, &world);
        storm.rage(&mut world, &run, Duration::from_secs(25)).await;
        let totals = run.judge(&mut world).await;
        assert!(storm.tally.kills > 0, "nobody was killed");
        really_happened(&storm.tally, &[], totals);
    });
}

/// Whether such a run can fail at all: disks that lie, all of them, lose what was acknowledged.
#[test]
fn a_cluster_that_loses_what_it_acknowledged_is_found_out() {
    const SEED: u64 = 13;
    let run = std::thread::spawn(|| {
        in_world(3, SEED, async |mut world| {
            let run = world.run(Pace::STEADY, SEED);
            run.progress(100).await;
            world.disks.iter().for_each(|disk| disk.flush(Flush::Lies));
            run.progress(300).await;
            let mut storm = Storm::new(SEED, &[Fault::PowerLossOfAll], &world);
            storm.each_once(&mut world, &run).await;
            assert!(storm.tally.bytes_lost > 0, "the disks lost nothing");
            world.disks.iter().for_each(|disk| disk.flush(Flush::Honest));
            run.judge(&mut world).await;
        });
    });
    let said = run.join().expect_err("writes were lost, and nobody noticed");
    let said = said.downcast_ref::<String>().expect("a violation is told in words");
    let found = ["P1: ", "P8: ", "P9: ", "nodes differ at one index"];
    assert!(found.iter().any(|violation| said.contains(violation)), "{said}");
}
