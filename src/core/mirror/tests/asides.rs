//! What is said in passing, and who hears it.

use serde_json::value::RawValue;

use super::*;
use crate::core::mirror::asides::RING as ASIDES;

const LASTS: Duration = Duration::from_secs(3);

/// Somebody who watches and hears. What is heard is put into words: `user1+`, `user1-`, or the data of a signal.
struct Listener {
    cursor: Cursor,
    listening: Listening,
    lost: u64,
}

impl Scene {
    fn listen(&self, own: u16) -> Listener {
        self.mirror.attach(Level::Users, &self.wake);
        let cursor = Cursor::new(Level::Users, None, None);
        Listener { cursor, listening: self.mirror.listen(id(own)), lost: 0 }
    }

    /// One that has its snapshot.
    fn listener(&self, own: u16) -> Listener {
        let mut listener = self.listen(own);
        assert!(matches!(self.mirror.next(&mut listener.cursor), Some(Delivery::Snapshot(_))));
        listener
    }

    fn say(&self, n: u16, what: What) {
        self.mirror.hear_aside(Said { user: user(n), connection: id(n), what }, LASTS);
    }

    /// Time passes in which typing is ended, whatever else is done.
    async fn pass(&self, time: Duration) {
        assert!(tokio::time::timeout(time, self.mirror.end_typing()).await.is_err(), "it runs for ever");
    }

    fn typing(&self, n: u16, typing: bool) {
        self.say(n, What::Typing(typing));
    }

    fn signal(&self, n: u16, data: &str, echo: bool) {
        let data = Arc::from(RawValue::from_string(data.to_owned()).unwrap());
        self.say(n, What::Signal { data, time: 1, echo });
    }
}

impl Listener {
    fn next(&mut self, scene: &Scene) -> Option<Arc<Aside>> {
        match scene.mirror.next_aside(&self.cursor, &mut self.listening)? {
            Delivery::Aside { aside, lost } => {
                self.lost += lost;
                Some(aside)
            }
            other => panic!("{other:?}"),
        }
    }

    fn all(&mut self, scene: &Scene) -> Vec<String> {
        let told = std::iter::from_fn(|| self.next(scene));
        told.map(|aside| match &aside.what {
            What::Typing(true) => format!("{}+", aside.user),
            What::Typing(false) => format!("{}-", aside.user),
            What::Signal { data, .. } => data.get().to_owned(),
        })
        .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_listen_are_told_the_same_which_is_encoded_once() {
    let scene = Scene::at("e", 5, &[(1, 1)]);
    let mut listeners: Vec<_> = (10..20).map(|own| scene.listener(own)).collect();
    scene.woken();
    scene.signal(1, "7", false);
    assert!(scene.woken());
    let encoded = AtomicUsize::new(0);
    let told: Vec<_> = listeners.iter_mut().map(|listener| listener.next(&scene).unwrap()).collect();
    for aside in &told {
        aside.encoded.get(|| {
            encoded.fetch_add(1, Ordering::Relaxed);
            Vec::new()
        });
        assert!(Arc::ptr_eq(aside, &told[0]));
    }
    assert_eq!(encoded.load(Ordering::Relaxed), 1);
    assert!(listeners.iter_mut().all(|listener| listener.next(&scene).is_none()));
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_what_they_say_themselves_unless_they_asked_for_it() {
    let scene = Scene::at("e", 5, &[(1, 1)]);
    let (mut own, mut other) = (scene.listener(1), scene.listener(2));
    scene.typing(1, true);
    scene.signal(1, "1", false);
    scene.signal(1, "2", true);
    scene.typing(1, false);
    assert_eq!(own.all(&scene), ["2"]);
    assert_eq!(other.all(&scene), ["user1+", "1", "2", "user1-"]);
}

#[tokio::test(start_paused = true)]
async fn who_has_yet_to_be_shown_the_roster_hears_nothing_and_then_what_was_said_meanwhile() {
    let scene = Scene::new();
    let mut early = scene.listen(9);
    scene.signal(1, "1", false);
    assert_eq!(early.all(&scene), Vec::<String>::new());
    assert!(!scene.read(reading("e", Some(5), &[(1, 1)])));
    assert!(matches!(scene.mirror.next(&mut early.cursor), Some(Delivery::Snapshot(_))));
    assert_eq!(early.all(&scene), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_later_is_told_neither_of_the_beginning_nor_of_the_end() {
    let scene = Scene::at("e", 5, &[(1, 1)]);
    let mut early = scene.listener(8);
    scene.typing(1, true);
    scene.signal(1, "1", false);
    let mut late = scene.listener(9);
    scene.typing(1, false);
    assert_eq!(early.all(&scene), ["user1+", "1", "user1-"]);
    assert_eq!(late.all(&scene), Vec::<String>::new());
    scene.typing(1, true);
    assert_eq!(late.all(&scene), ["user1+"]);
}

#[tokio::test(start_paused = true)]
async fn typing_ends_in_its_time_though_the_keeper_is_busy_and_with_the_connection() {
    let scene = Scene::at("e", 5, &[(1, 1), (2, 1)]);
    let mut listener = scene.listener(9);
    scene.typing(1, true);
    scene.typing(2, true);
    scene.pass(LASTS / 2).await;
    scene.typing(1, true);
    // While the roster is read nothing is flushed; this is.
    scene.mirror.want_reading();
    assert!(scene.mirror.begin_reading());
    scene.pass(LASTS / 2).await;
    assert_eq!(listener.all(&scene), ["user1+", "user2+", "user2-"]);
    scene.mirror.install(reading("e", Some(5), &[(1, 1), (2, 1)]));
    scene.woken();
    scene.mirror.hear(published("e", 5, vec![gone(1)]));
    assert!(scene.woken());
    assert_eq!(listener.all(&scene), ["user1-"]);
    scene.pass(LASTS * 2).await;
    assert_eq!(listener.all(&scene), Vec::<String>::new(), "and it has ended once");
}

#[tokio::test(start_paused = true)]
async fn who_is_behind_loses_the_oldest_and_no_change_and_still_hears_who_has_ended() {
    let scene = Scene::at("e", 5, &[(1, 1), (2, 1), (3, 1)]);
    let (mut slow, mut quick) = (scene.listener(8), scene.listener(9));
    (1..4).for_each(|n| scene.typing(n, true));
    assert_eq!(slow.all(&scene).len(), 3);
    scene.typing(1, false);
    scene.typing(2, false);
    let most = u64::try_from(ASIDES).unwrap();
    for n in 0..most {
        scene.signal(4, &n.to_string(), false);
        assert!(quick.all(&scene).contains(&n.to_string()));
        if n % 64 == 0 {
            scene.mirror.hear(published("e", 5 + n / 64, vec![set(1, n + 2)]));
            scene.tick().await;
        }
    }
    // That the third has ended is still in the ring.
    scene.typing(3, false);
    scene.typing(2, true);
    let heard = slow.all(&scene);
    assert_eq!(heard.len(), 1 + (ASIDES - 2) + 1, "{heard:?}");
    assert_eq!(heard[0], "user1-", "it is not in the ring any more, and told all the same");
    assert_eq!(&heard[heard.len() - 2..], [format!("{}", most - 1), "user3-".to_owned()]);
    assert!(!heard.contains(&"user2+".to_owned()), "she was told to type, and does");
    // Four asides were pushed out: two ends and two signals.
    assert_eq!((slow.lost, quick.lost), (4, 0));
    let mut frames = 0;
    while let Some(delivery) = scene.mirror.next(&mut slow.cursor) {
        assert!(matches!(delivery, Delivery::Frame(_)));
        frames += 1;
    }
    assert_eq!(frames, 4, "all changes are there");
}

#[tokio::test(start_paused = true)]
async fn long_signals_push_each_other_out_and_the_latest_is_always_there() {
    let scene = Scene::at("e", 5, &[(1, 1)]);
    let mut slow = scene.listener(9);
    let long = |n: u8, length: usize| format!("\"{n}{}\"", "x".repeat(length));
    (0..10).for_each(|n| scene.signal(1, &long(n, 40 * 1024), false));
    assert_eq!(slow.all(&scene).len(), 3);
    assert_eq!(slow.lost, 7);
    scene.signal(1, &long(0, 1024 * 1024), false);
    assert_eq!(slow.all(&scene).len(), 1);
    assert_eq!(slow.lost, 7);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_listens_nothing_is_kept() {
    let scene = Scene::at("e", 5, &[(1, 1)]);
    scene.signal(1, "1", false);
    let mut first = scene.listener(9);
    assert_eq!(first.all(&scene), Vec::<String>::new());
    scene.signal(1, "2", false);
    scene.mirror.detach(Level::Users, &scene.wake);
    let mut second = scene.listener(9);
    scene.signal(1, "3", false);
    assert_eq!(second.all(&scene), ["3"]);
}
