//! Many rooms, in each of which one person comes while somebody begins to watch it, and nothing else happens.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::sleep};

use super::world::{LAG, World, channel, hello};
use crate::{
    core::{Command, Delivery, Lists, Reply, Session, Wake, Whole},
    domain::{chance, level::Level, name::UserName},
};

#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(&self, _: u64) {
        self.0.notify_one();
    }
}

/// Each room in which the person was not shown in time, a sentence each.
pub(super) async fn faults(world: Arc<World>) -> Vec<String> {
    sleep(Duration::from_secs(10)).await;
    let instances = world.instances();
    let user = UserName::parse("ann").unwrap();
    let (mut person, _) = Session::open(&instances[0].core, hello(Some(&user), None)).await.unwrap();
    let (mut watcher, _) = Session::open(&instances[1].core, hello(None, None)).await.unwrap();
    let bell = Arc::new(Bell::default());
    let wake: Arc<dyn Wake> = bell.clone();
    let mut faults = Vec::new();
    for number in 0..100 {
        let room = channel(&format!("room:{number}"));
        let watch = Command::Watch { channel: room.clone(), level: Level::Users, since: None };
        let Reply::Watching(mut watch) = watcher.execute(watch, &wake).await.unwrap() else { panic!("no watch") };
        sleep(Duration::from_millis(chance::within(0..80))).await;
        let join = Command::Join {
            channel: room,
            state: Default::default(),
            watch: None,
            grace_ms: None,
            on_leave: Default::default(),
        };
        person.execute(join, &wake).await.unwrap();
        sleep(Duration::from_millis(LAG)).await;
        let mut shown = 0;
        while let Some(delivery) = watch.deliver() {
            shown += match &delivery {
                Delivery::Snapshot(snapshot) => match &snapshot.whole {
                    Whole::Users(members) => members.len(),
                    _ => 0,
                },
                Delivery::Copy(_) | Delivery::Aside { .. } => 0,
                Delivery::Frame(frame) => match &frame.lists {
                    Lists::Users(delta) => delta.join.len(),
                    _ => 0,
                },
            };
        }
        if shown != 1 {
            faults.push(format!("in room {number} the person is shown {shown} times {LAG} ms after coming"));
        }
    }
    faults
}
