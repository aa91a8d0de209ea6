/* Fences: numbers that grow from one acquisition of a lock to the next.
 *
 * The code takes the time of the middle one of the servers' clocks for the floor, this model a client's. And there
 * quarantine lasts for the horizon, and not for what clocks differ besides.
 *
 * Each server counts on when it grants. The fence is the greatest number of the quorum, and is written back until a
 * quorum stores it. A number is never below the client's wall clock (the floor), so that it also grows beyond a server
 * that has forgotten it.
 *
 * This model abstracts from: messages on their way (lock.pml) and meta (forget.pml). A command is executed and answered
 * in one step, but any time may pass between two commands. A server that has forgotten counts again after its
 * QUARANTINE, for everybody: forget.pml shows what meta is needed for that. All clocks run alike, but client 0's
 * wall clock may be SKEW ticks ahead.
 *
 * Time goes in ticks, and everything else happens between two ticks, in any order (as in lock.pml).
 *
 * Bounds: two clients with one attempt each; ticks up to TICKS where wall clocks are used (FLOOR), without bound
 * elsewhere; servers forget FORGETS times. Attempts that failed before have raised the number of server 0 to 2.
 */

#define SERVERS 3
#define TTL 2
#define TICKS 5

#ifndef FLOOR
#define FLOOR 0
#endif
#ifndef FORGETS
#define FORGETS 0
#endif
#ifndef SKEW
#define SKEW 1
#endif

/* A server that has forgotten does not count for the horizon, and for what wall clocks may differ. The horizon alone is
 * not enough: an attempt that began before the quarantine ended has an old floor. */
#define HORIZON TTL
#ifdef QUARANTINE_WITHOUT_SKEW
#define QUARANTINE HORIZON
#else
#define QUARANTINE (HORIZON + SKEW)
#endif

#define QUORUM(servers) ((servers) == 3 || (servers) >= 5)
#define BIT(server) (1 << (server))
#define AT(client, server) ((client) * SERVERS + (server))
#define greater(a, b) ((a) > (b) -> (a) : (b))
#define down(timer) timer = (timer > 0 -> timer - 1 : 0)

/* A tick is many microseconds: more than there can be acquisitions. */
#define MICROSECONDS 8
#define FIRST_TIME 1

mtype:phase = { BEFORE, ASKING, WRITING, HOLDING, OVER };

/* Servers. */
byte owner[SERVERS];
byte left[SERVERS];
byte number[SERVERS];
byte quarantine[SERVERS];
byte forgets;

/* Clients. */
mtype:phase phase[2];
byte valid[2];
byte floor[2];      /* the wall clock, when the attempt began */
byte asked[2];      /* bits of the servers that were sent the SET */
byte votes[2];      /* bits of those that voted FOR */
byte answer[6];     /* the number with which each server granted */
byte fence[2];
byte stored[2];     /* bits of the servers that are known to store the fence */

byte now;           /* ticks; 0 for ever where wall clocks are not used */
byte last;          /* the fence of the last acquisition */

#ifdef FLOOR_IGNORED
#define floor_of(client) 0
#elif FLOOR
#define floor_of(client) (MICROSECONDS * (FIRST_TIME + now + (client == 0 -> SKEW : 0)))
#else
#define floor_of(client) 0
#endif

inline over() {
    phase[me] = OVER; valid[me] = 0; asked[me] = 0; votes[me] = 0; fence[me] = 0; stored[me] = 0; floor[me] = 0;
    answer[AT(me, 0)] = 0; answer[AT(me, 1)] = 0; answer[AT(me, 2)] = 0
}

#define says(server) ((answer[AT(me, server)] == fence[me]) << (server))

inline grant(server) {
    asked[me] = asked[me] | BIT(server);
    owner[server] = me + 1; left[server] = TTL;
    number[server] = greater(number[server] + 1, floor[me]);
    printf("SAY server %d grants the lock to client %d, with the number %d\n", server, me, number[server]);
    if
    :: quarantine[server] == 0 ->
        votes[me] = votes[me] | BIT(server); answer[AT(me, server)] = number[server]
    :: else
    fi;
    if
    :: QUORUM(votes[me]) ->
        fence[me] = greater(answer[AT(me, 0)], greater(answer[AT(me, 1)], answer[AT(me, 2)]));
        stored[me] = says(0) | says(1) | says(2);
        answer[AT(me, 0)] = 0; answer[AT(me, 1)] = 0; answer[AT(me, 2)] = 0;
        votes[me] = 0; floor[me] = 0; asked[me] = 0;
#ifdef WITHOUT_WRITE_BACK
        stored[me] = 7;
#endif
        printf("SAY client %d has a quorum, and the number %d\n", me, fence[me]);
        phase[me] = WRITING
    :: else
    fi
}

inline write_back(server) {
    printf("SAY client %d writes the number %d back to server %d\n", me, fence[me], server);
    number[server] = greater(number[server], fence[me]);
    stored[me] = stored[me] | BIT(server)
}

#ifdef WRITE_BACK_WITHOUT_HOLDING
#define may_write_back(server) true
#else
#define may_write_back(server) (owner[server] == me + 1)
#endif

#if defined(VALIDITY_CHECKED_BEFORE_THE_WRITE_BACK)
#define still_valid true
#else
#define still_valid (valid[me] > 0)
#endif

#if defined(WRITE_BACK_WITHOUT_QUORUM)
#define enough(servers) true
#else
#define enough(servers) QUORUM(servers)
#endif

#define STEPS_WITH(server) \
    :: d_step { phase[me] == ASKING && owner[server] == 0 && !(asked[me] & BIT(server)) -> grant(server) } \
    :: d_step { \
        phase[me] == WRITING && may_write_back(server) && !(stored[me] & BIT(server)) -> write_back(server) \
       } \
    :: d_step { \
        phase[me] == OVER && owner[server] == me + 1 -> \
        printf("SAY client %d releases the lock on server %d\n", me, server); \
        owner[server] = 0; left[server] = 0 \
       }

proctype Client(byte me) {
    do
    STEPS_WITH(0)
    STEPS_WITH(1)
    STEPS_WITH(2)
    :: d_step {
        phase[me] == BEFORE ->
        phase[me] = ASKING; valid[me] = TTL; floor[me] = floor_of(me);
        printf("SAY client %d begins an attempt, with the floor %d\n", me, floor[me])
       }
    :: d_step {
        phase[me] == WRITING && enough(stored[me]) && still_valid ->
        printf("SAY client %d returns a lease with the fence %d\n", me, fence[me]);
        assert(fence[me] > last);  /* fences grow */
        last = fence[me];
        phase[me] = HOLDING
       }
    :: d_step { phase[me] == ASKING || phase[me] == WRITING -> printf("SAY client %d gives up\n", me); over() }
    :: d_step { phase[me] == HOLDING -> printf("SAY client %d ends its lease\n", me); over() }
    od
}

inline restart(server) {
    printf("SAY server %d restarts, and has forgotten everything\n", server);
    forgets++;
    owner[server] = 0; left[server] = 0; number[server] = 0; quarantine[server] = QUARANTINE
}

inline run_down(server) {
    down(left[server]); down(quarantine[server]);
    owner[server] = (left[server] > 0 -> owner[server] : 0)
}

proctype World() {
    do
#if FORGETS
    :: d_step { forgets < FORGETS -> restart(0) }
    :: d_step { forgets < FORGETS -> restart(1) }
    :: d_step { forgets < FORGETS -> restart(2) }
#endif
    :: d_step {
        now < TICKS || !FLOOR ->
        printf("SAY a tick passes\n");
        now = now + FLOOR;
        run_down(0); run_down(1); run_down(2);
        down(valid[0]); down(valid[1])
       }
    od
}

init {
    d_step { phase[0] = BEFORE; phase[1] = BEFORE; number[0] = 2 };
    atomic { run Client(0); run Client(1); run World() }
}
