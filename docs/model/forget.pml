/* Servers that forget: meta, fresh groups, quarantine, horizon, healing.
 *
 * In the engine a horizon travels with the lock, before it on the same connection; here it is stored on a quorum first.
 *
 * A server that has forgotten everything might vote for a second holder. So every server holds meta, which it forgets
 * together with its keys; who finds none there counts no vote of that server for the horizon, the greatest ttl in use,
 * which stands in the metas of the others (quarantine). In a fresh group no server has meta, and nobody need wait.
 *
 * This model abstracts from: messages on their way (lock.pml). A command is executed and answered in one step, but any
 * time may pass between two commands of one round. A client that can't reach a server is one that does nothing there.
 * It also abstracts from fences, and from drift: all clocks run alike. A meta of an older run counts as none. A client
 * reads the metas of the other servers in one step. Healing is freer than it is built: a vote may be taken again at any
 * time while the lease is valid. Horizons never fall.
 *
 * Time goes in ticks, and everything else happens between two ticks, in any order (as in lock.pml).
 *
 * Bounds: two clients with one attempt each; their ttls are TTL_0 and TTL_1, of which the greater is max_ttl; servers
 * forget FORGETS times together, whichever server; EXTENSIONS by client 0, which then also heals. The group is FRESH at
 * the start, and no client has seen it; else every server has meta, and all clients know that. A history ends when an
 * attempt or a lease is over, as its client makes no other one.
 */

#define SERVERS 3

#ifndef TTL_0
#define TTL_0 1
#endif
#ifndef TTL_1
#define TTL_1 1
#endif
#define TTL(client) ((client) == 0 -> TTL_0 : TTL_1)
#if TTL_0 > TTL_1
#define MAX_TTL TTL_0
#else
#define MAX_TTL TTL_1
#endif
#ifndef FORGETS
#define FORGETS 1
#endif
#ifndef EXTENSIONS
#define EXTENSIONS 0
#endif
#ifndef FRESH
#define FRESH 0
#endif

#define QUORUM(servers) ((servers) == 3 || (servers) >= 5)
#define BIT(server) (1 << (server))
#define ALL 7
#define AT(client, server) ((client) * SERVERS + (server))

mtype:phase = { BEFORE, ASKING, HOLDING };
mtype:sight = { AWAY, CONNECTED, QUARANTINED, TRUSTED };

/* Servers. */
byte owner[SERVERS];  /* 1: the first client, 2: the second; 0: nobody */
byte left[SERVERS];
byte meta[SERVERS];   /* the horizon that stands in it; 0: there is none for this run */
byte forgets;

/* Clients. */
mtype:sight sight[6];   /* of each server, by each client */
byte remaining[6];         /* ticks of quarantine that are left */
bool seen[2];         /* whether this client has seen the group before */
byte missing[2];      /* bits of the servers that had no meta when this client looked whether the group is fresh */
bool looking[2];      /* whether it looks */
byte raised[2];       /* bits of the servers that store this client's ttl as their horizon, or a greater one */

mtype:phase phase[2];
byte votes[2];
byte valid[2];     /* ticks until the validity ends */
byte extended[2];  /* ticks until it ends if the extension succeeds */
byte extensions;
bool extending[2];

#define connected(server) (sight[AT(me, server)] != AWAY)
#define all_connected (connected(0) && connected(1) && connected(2))
#define greater(a, b) ((a) > (b) -> (a) : (b))
#define other(server) (((server) + 1) % SERVERS)
#define another(server) (((server) + 2) % SERVERS)

/* ---- What a client thinks of a server ---- */

#ifdef WITHOUT_QUARANTINE
#define counts(server) connected(server)
#else
#define counts(server) (sight[AT(me, server)] == TRUSTED)
#endif

#ifdef QUARANTINE_ENDS_EARLY
#define quarantine_of(horizon) ((horizon) - 1)
#else
#define quarantine_of(horizon) (horizon)
#endif

/* The greatest horizon that a quorum of the other two servers store: both of them. With fewer, max_ttl. */
#define others_have_meta(server) \
    (connected(other(server)) && connected(another(server)) && meta[other(server)] && meta[another(server)])
#define others_horizon(server) greater(meta[other(server)], meta[another(server)])
#define horizon_to_store(server) (others_have_meta(server) -> others_horizon(server) : MAX_TTL)

byte horizon;  /* what a step needs on its way; 0 between two steps */

inline quarantine(server) {
    printf("SAY client %d finds no meta on server %d: quarantine for %d ticks\n", me, server, quarantine_of(horizon));
    sight[AT(me, server)] = QUARANTINED;
    remaining[AT(me, server)] = quarantine_of(horizon);
    horizon = 0
}

/* Nobody overwrites a meta that is there. */
inline store_meta(server) {
    if
    :: meta[server] == 0 -> meta[server] = horizon
    :: else
    fi;
    sight[AT(me, server)] = TRUSTED; remaining[AT(me, server)] = 0; seen[me] = true; horizon = 0
}

/* All three servers are asked on connections that were all there before the first question. */
#if defined(FRESH_AS_THEY_COME) || defined(FRESH_WITH_ONE_DOWN)
#define may_look true
#else
#define may_look looking[me]
#endif

#ifdef FRESH_WITHOUT_MEMORY
#define may_be_fresh true
#else
#define may_be_fresh (!seen[me])
#endif

/* What a client does with one server, in any order. */
#define STEPS_WITH(server) \
    :: d_step { \
        sight[AT(me, server)] == AWAY -> \
        if \
        :: meta[server] -> \
            printf("SAY client %d connects to server %d, and finds meta\n", me, server); \
            sight[AT(me, server)] = TRUSTED; seen[me] = true; looking[me] = false; missing[me] = 0 \
        :: else -> \
            printf("SAY client %d connects to server %d\n", me, server); \
            sight[AT(me, server)] = CONNECTED \
        fi \
       } \
    :: d_step { \
        (sight[AT(me, server)] == CONNECTED || sight[AT(me, server)] == QUARANTINED) && meta[server] -> \
        printf("SAY client %d finds meta on server %d, and counts its votes\n", me, server); \
        sight[AT(me, server)] = TRUSTED; remaining[AT(me, server)] = 0; \
        seen[me] = true; looking[me] = false; missing[me] = 0 \
       } \
    :: d_step { \
        may_look && may_be_fresh && connected(server) && meta[server] == 0 && !(missing[me] & BIT(server)) -> \
        printf("SAY client %d looks whether the group is fresh: server %d has no meta\n", me, server); \
        missing[me] = missing[me] | BIT(server) \
       } \
    :: d_step { \
        missing[me] == ALL && connected(server) && sight[AT(me, server)] != TRUSTED -> \
        printf("SAY client %d takes the group for fresh, and stores meta on server %d\n", me, server); \
        horizon = TTL(me); store_meta(server) \
       } \
    :: d_step { \
        sight[AT(me, server)] == CONNECTED && meta[server] == 0 && others_have_meta(server) -> \
        horizon = horizon_read(server); quarantine(server) \
       } \
    :: d_step { \
        sight[AT(me, server)] == CONNECTED && meta[server] == 0 -> \
        horizon = MAX_TTL; quarantine(server) \
       } \
    :: d_step { \
        sight[AT(me, server)] == QUARANTINED && remaining[AT(me, server)] == 0 -> \
        printf("SAY the quarantine of server %d is over for client %d, which stores meta there\n", server, me); \
        horizon = horizon_to_store(server); store_meta(server) \
       } \
    :: d_step { \
        TTL_0 != TTL_1 && sight[AT(me, server)] == TRUSTED && phase[me] == BEFORE && !(raised[me] & BIT(server)) -> \
        meta[server] = greater(meta[server], TTL(me)); raised[me] = raised[me] | BIT(server); \
        printf("SAY server %d stores a horizon of %d ticks for client %d\n", server, meta[server], me) \
       } \
    :: d_step { \
        phase[me] == ASKING && connected(server) && owner[server] == 0 -> \
        owner[server] = me + 1; left[server] = TTL(me); \
        printf("SAY server %d grants the lock to client %d\n", server, me); \
        if \
        :: counts(server) -> votes[me] = votes[me] | BIT(server) \
        :: else \
        fi; \
        decide() \
       } \
    EXTENSION_STEPS(server)

#if defined(HORIZON_IGNORED)
#define horizon_read(server) TTL(me)
#elif defined(HORIZON_READ_FROM_ONE)
#define horizon_read(server) meta[another(server)]
#else
#define horizon_read(server) others_horizon(server)
#endif


#if EXTENSIONS
#define EXTENSION_STEPS(server) \
    :: d_step { \
        extending[me] && connected(server) && owner[server] == me + 1 && !(votes[me] & BIT(server)) -> \
        printf("SAY server %d extends the lease of client %d\n", server, me); \
        left[server] = TTL(me); votes[me] = votes[me] | BIT(server); \
        decide() \
       } \
    :: d_step { \
        me == 0 && phase[me] == HOLDING && connected(server) && owner[server] == 0 -> \
        printf("SAY client %d takes its vote on server %d again\n", me, server); \
        owner[server] = me + 1; left[server] = valid[me]; \
        HEALED(server) \
       }
#ifdef HEAL_COUNTS_AT_ONCE
#define HEALED(server) \
        if \
        :: extending[me] -> votes[me] = votes[me] | BIT(server); decide() \
        :: else \
        fi
#else
#define HEALED(server) skip
#endif
#else
#define EXTENSION_STEPS(server)
#endif

inline decide() {
    if
    :: QUORUM(votes[me]) && phase[me] == ASKING && valid[me] > 0 && (!FRESH || me == 0 || phase[0] == HOLDING) ->
        /* In a fresh group the clients are alike: it is enough that the second that holds the lock is client 1. */
        printf("SAY client %d holds the lock, for %d ticks\n", me, valid[me]);
        phase[me] = HOLDING; votes[me] = 0;
        assert(!(phase[1 - me] == HOLDING && valid[1 - me] > 0))  /* no two valid leases */
    :: QUORUM(votes[me]) && extending[me] ->
        printf("SAY client %d has extended its lease, for %d ticks\n", me, extended[me]);
        valid[me] = extended[me]; extending[me] = false; votes[me] = 0; extended[me] = 0
    :: else
    fi
}

/* A ttl above the horizon is used only when a quorum stores it. */
#if defined(HORIZON_NOT_STORED)
#define may_begin true
#elif defined(HORIZON_STORED_ON_ONE)
#define may_begin (raised[me] != 0)
#else
#define may_begin (TTL_0 == TTL_1 || QUORUM(raised[me]))
#endif

/* SETs are sent only when a quorum counts. Else the first votes of a fresh group could be forgotten together with the
 * only meta that there is. */
#ifdef SENT_WITHOUT_A_QUORUM
#define quorum_counts true
#else
#define quorum_counts (counts(0) + counts(1) + counts(2) >= 2)
#endif

proctype Client(byte me) {
    do
    STEPS_WITH(0)
    STEPS_WITH(1)
    STEPS_WITH(2)
    :: d_step {
        !looking[me] && all_connected && may_be_fresh && missing[me] != ALL -> looking[me] = true; missing[me] = 0
       }
#ifdef FRESH_WITH_ONE_DOWN
    :: d_step { may_be_fresh && !connected(0) -> missing[me] = missing[me] | BIT(0) }
    :: d_step { may_be_fresh && !connected(1) -> missing[me] = missing[me] | BIT(1) }
    :: d_step { may_be_fresh && !connected(2) -> missing[me] = missing[me] | BIT(2) }
#endif
    :: d_step {
        phase[me] == BEFORE && may_begin && quorum_counts ->
        printf("SAY client %d begins an attempt, with a ttl of %d\n", me, TTL(me));
        phase[me] = ASKING; valid[me] = TTL(me)
       }
#if EXTENSIONS
    :: d_step {
        me == 0 && phase[me] == HOLDING && !extending[me] && extensions < EXTENSIONS ->
        printf("SAY client %d begins an extension\n", me);
        extensions++; extending[me] = true; votes[me] = 0; extended[me] = TTL(me)
       }
    :: d_step { extending[me] -> extending[me] = false; votes[me] = 0; extended[me] = 0 }
#endif
    od
}

/* ---- Servers that forget, and time ---- */

inline disconnect(client, server) {
    sight[AT(client, server)] = AWAY; remaining[AT(client, server)] = 0;
#ifndef HORIZON_COUNTED_AFTER_A_RESTART
    if
    :: phase[client] == BEFORE -> raised[client] = raised[client] & ~BIT(server)
    :: else
    fi;
#endif
#if defined(FRESH_AS_THEY_COME)
    missing[client] = missing[client] & ~BIT(server)
#elif defined(FRESH_FOR_EVER)
    looking[client] = false; missing[client] = (missing[client] == ALL -> ALL : 0)
#else
    looking[client] = false; missing[client] = 0
#endif
}

inline restart(server) {
    printf("SAY server %d restarts, and has forgotten everything\n", server);
    forgets++;
    owner[server] = 0; left[server] = 0; meta[server] = 0;
    disconnect(0, server); disconnect(1, server)
}

#define down(timer) timer = (timer > 0 -> timer - 1 : 0)

inline run_down(server) {
    down(left[server]);
    owner[server] = (left[server] > 0 -> owner[server] : 0);
    down(remaining[AT(0, server)]); down(remaining[AT(1, server)])
}

/* A history ends when the time of a client's only attempt, or lease, is over: nothing can go wrong after that. */
#define goes_on(client) (phase[client] == BEFORE || valid[client] > 1)

proctype World() {
    do
    :: d_step { forgets < FORGETS -> restart(0) }
    :: d_step { forgets < FORGETS -> restart(1) }
    :: d_step { forgets < FORGETS -> restart(2) }
    :: d_step {
        goes_on(0) && goes_on(1) ->
        printf("SAY a tick passes\n");
        run_down(0); run_down(1); run_down(2);
        down(valid[0]); down(valid[1]); down(extended[0])
       }
    od
}

inline known(client, server) {
    sight[AT(client, server)] = TRUSTED
}

init {
    d_step {
        phase[0] = BEFORE; phase[1] = BEFORE;
        sight[0] = AWAY; sight[1] = AWAY; sight[2] = AWAY; sight[3] = AWAY; sight[4] = AWAY; sight[5] = AWAY;
#ifdef FOUND_FRESH
        /* A state of a fresh group's history, for shorter searches: a client has just found that it is fresh. */
        sight[AT(1, 0)] = CONNECTED; sight[AT(1, 1)] = CONNECTED; sight[AT(1, 2)] = CONNECTED; missing[1] = ALL;
#endif
#if !FRESH
        /* Every server stores the smaller ttl as its horizon. */
        meta[0] = (TTL_0 < TTL_1 -> TTL_0 : TTL_1); meta[1] = meta[0]; meta[2] = meta[0];
        known(0, 0); known(0, 1); known(0, 2); known(1, 0); known(1, 1); known(1, 2);
        seen[0] = true; seen[1] = true
#endif
    };
    atomic { run Client(0); run Client(1); run World() }
}
