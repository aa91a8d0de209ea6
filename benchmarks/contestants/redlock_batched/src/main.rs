//! `redlock_batched` 0.2.0, which locks on one server; asked for what `harness.py` says.

use std::io::{stdin, stdout, BufRead, Write};
use std::time::{Duration, Instant};

use locks::{CreationResult, DeleteResult, LockManager, RedisLock};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use serde_json::{json, Value};

const TTL: Duration = Duration::from_secs(10);

/// Locks and unlocks batches for a number of seconds. Returns the figures.
async fn batches(manager: &LockManager, batch: u64, seconds: f64, name: &str) -> Value {
    let (mut done, mut failures, mut number) = (0, 0, 0);
    let began = Instant::now();
    while began.elapsed().as_secs_f64() < seconds {
        number += 1;
        let locks: Vec<_> = (0..batch)
            .map(|item| RedisLock::new(format!("bench:{name}:{number}:{item}"), TTL))
            .collect();
        let asked: Vec<_> = locks.iter().map(|lock| manager.create_lock(lock)).collect();
        let mut held = Vec::new();
        for (lock, answer) in locks.into_iter().zip(asked) {
            match answer.await {
                Ok(CreationResult::Ready) => held.push(lock),
                _ => failures += 1,
            }
        }
        let asked: Vec<_> = held
            .into_iter()
            .map(|lock| manager.delete_lock_with_result(lock.name, lock.lock_id))
            .collect();
        for answer in asked {
            match answer.await {
                Ok(DeleteResult::Deleted) => done += 1,
                _ => failures += 1,
            }
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    let first = if failures > 0 { "of a batch, not all were locked and unlocked" } else { "" };
    let rate = done as f64 / elapsed;
    json!({"cycles": done, "elapsed": elapsed, "rate": rate, "failures": failures, "first_failure": first})
}

/// One measurement: connects, warms up, reports that it is ready, measures.
async fn measured(request: &Value) -> redis::RedisResult<()> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", request["groups"][0][0]))?;
    // After the default of half a second it would ask again, and find its own locks.
    let patient = ConnectionManagerConfig::new().set_response_timeout(Duration::from_secs(60));
    let connection = ConnectionManager::new_with_config(client, patient).await?;
    // The default, a batch in 1 ms at most, would leave it idle.
    let manager = LockManager::build(connection)
        .with_minimum_request_period(Duration::from_micros(100))
        .finalize();
    let batch = request["batch"].as_u64().unwrap_or(1);
    batches(&manager, batch, request["warmup"].as_f64().unwrap_or(0.0), "warm").await;
    say(&json!({"event": "ready"}));
    stdin().lock().read_line(&mut String::new())?;
    let name = request["name"].as_str().unwrap_or("");
    say(&batches(&manager, batch, request["seconds"].as_f64().unwrap_or(1.0), name).await);
    Ok(())
}

/// Sends one line to the bench.
fn say(message: &Value) {
    println!("{message}");
    stdout().flush().expect("the bench reads");
}

fn main() {
    say(&json!({"packages": {"redlock_batched": "0.2.0", "redis": "0.29"}}));
    let mut line = String::new();
    while stdin().lock().read_line(&mut line).expect("the bench writes") > 0 {
        let request = serde_json::from_str(&line).expect("a JSON object");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        if let Err(error) = runtime.block_on(measured(&request)) {
            say(&json!({"error": error.to_string()}));
        }
        runtime.shutdown_background();
        say(&json!({"event": "closed"}));
        line.clear();
    }
}
