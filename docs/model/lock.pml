/* One lock: messages, connections, time. These rules are built (docs/protocol.md).
 *
 * This model abstracts from: values and scripts of a real server, queues of those who wait, readers, permits, watching,
 * servers that forget and healing (forget.pml), fences (fence.pml), and several connections of a pool (one key uses one
 * of them).
 *
 * Messages take as long as they like: no time-out is assumed. A client may give up an attempt or an extension whenever
 * it likes. So time-outs of every length are covered, and refusals need not be heard. Three things are left out because
 * they change nothing: answers that nobody waits for, releases where the server has refused the token, and the votes of
 * a round that is decided.
 *
 * Time goes in ticks, and everything else happens between two ticks, in any order. That loses nothing: each rule
 * compares the time between two events with a whole number of ticks, so the events of a history can be moved to whole
 * ticks without changing their order. Timers count down, so time itself has no bound. A server may drop a key up to
 * DRIFT ticks early: that is all that clocks may differ within one ttl.
 *
 * Bounds: two clients; ATTEMPTS of client 0, and one of client 1; EXTENSIONS by client 0, with TTL or SHORTER as their
 * ttl; its connection to server 0 breaks BREAKS times. All servers are alike, so it does not matter which one that is.
 */

#define SERVERS 3
#define CLIENTS 2
#define LINKS 6
#define LINK(client, server) ((client) * SERVERS + (server))

#ifndef TTL
#define TTL 2
#endif
#ifndef SHORTER
#define SHORTER TTL
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 1
#endif
#ifndef QUEUED
#define QUEUED (2 * ATTEMPTS)
#endif
#ifndef EXTENSIONS
#define EXTENSIONS 0
#endif
#ifndef BREAKS
#define BREAKS 0
#endif
#define DRIFT 1
#define BREAKS_ON LINK(0, 0)
#define is_broken(server) (lost && LINK(me, server) == BREAKS_ON)

#ifdef WITHOUT_DRIFT
#define VALIDITY(ttl) (ttl)
#else
#define VALIDITY(ttl) ((ttl) - DRIFT)
#endif

#ifdef WITHOUT_QUORUM
#define QUORUM(votes) ((votes) != 0)
#else
#define QUORUM(votes) ((votes) == 3 || (votes) >= 5)
#endif

/* A token is the attempt's: 1 and 2 are of the first client, 3 and 4 of the second; 0 is nobody. */
#ifdef TOKEN_USED_AGAIN
#define TOKEN(client) (1 + (client) * 2)
#else
#define TOKEN(client) ((client) * 2 + attempts[client])
#endif
#define BIT(token) (1 << (token))

mtype:command = { SET, EXTEND, RELEASE, KILL };
mtype:phase = { IDLE, ASKING, HOLDING };

/* Servers: who has the key, and for how long. */
byte owner[SERVERS];
byte left[SERVERS];

/* Connections. When one breaks, what was on its way may still be executed (stray), or is lost. Nobody hears answers. */
chan request[LINKS] = [QUEUED] of { mtype:command, byte /* token */, byte /* ttl */, byte /* round */ };
chan reply[LINKS] = [QUEUED] of { mtype:command, byte /* token */, byte /* round */ };
chan stray = [QUEUED] of { mtype:command, byte, byte, byte };
bool lost;             /* the connection that may break */
byte may_hold[LINKS];  /* the tokens that this server may hold, as far as this client knows */
byte breaks;

/* Clients. */
mtype:phase phase[CLIENTS] = IDLE;
byte attempts[CLIENTS];   /* how many were made */
byte round[CLIENTS];      /* 0: the SETs; then the number of the extension */
bool extending[CLIENTS];
byte votes[CLIENTS];      /* bits of the servers that voted FOR in this round */
byte valid[CLIENTS];      /* ticks until the validity ends */
byte extended[CLIENTS];   /* ticks until it ends if the extension succeeds */
byte given_back;          /* bits of the tokens that were released, or whose attempt was given up */

/* Whether a client waits for an answer. Those that nobody waits for change nothing, and are left out. */
#define awaited(client, token, number) \
    (TOKEN(client) == (token) && round[client] == (number) && (phase[client] == ASKING || extending[client]))

inline send(link, command, token, ttl, number) {
    assert(nfull(request[link]));
    request[link] ! command, token, ttl, number
}

/* What a step needs on its way; 0 between two steps. */
mtype:command command;
byte token, ttl, number, wire, s;
bool done;

inline forget() {
    command = 0; token = 0; ttl = 0; number = 0; wire = 0; s = 0; done = false
}

/* ---- Servers ---- */

inline execute(command, token, ttl) {
    done = false;
    if
    :: command == SET ->
        if
        :: owner[me] == 0 -> owner[me] = token; left[me] = ttl; done = true
        :: else -> may_hold[wire] = may_hold[wire] & ~BIT(token)
        fi
    :: command == EXTEND ->
        if
        :: owner[me] == token -> left[me] = ttl; done = true
#ifdef EXTENSION_TAKES_THE_LOCK
        :: owner[me] == 0 -> owner[me] = token; left[me] = ttl; done = true
#endif
        :: else
        fi
    :: command == RELEASE ->
        if
#ifdef RELEASE_WITHOUT_COMPARING
        :: owner[me] != 0 ->
#else
        :: owner[me] == token ->
#endif
            owner[me] = 0; left[me] = 0; done = true
        :: else
        fi
    :: command == KILL ->
        do
        :: stray ? _, _, _, _
        :: empty(stray) -> break
        od
    fi
}

inline carry_out() {
    printf("SAY server %d executes %e of token %d\n", me, command, token);
    execute(command, token, ttl);
    if
    :: command == RELEASE && BREAKS -> reply[wire] ! command, token, number
    :: command != RELEASE && done && awaited(wire / SERVERS, token, number) -> reply[wire] ! command, token, number
    :: else
    fi
}

inline execute_stray() {
    printf("SAY server %d executes %e of token %d, which came on the old connection\n", me, command, token);
    execute(command, token, ttl)
}

proctype Server(byte me) {
    do
    /* A connection's commands are executed in their order. */
    :: d_step { request[LINK(0, me)] ? command, token, ttl, number -> wire = LINK(0, me); carry_out(); forget() }
    :: d_step { request[LINK(1, me)] ? command, token, ttl, number -> wire = LINK(1, me); carry_out(); forget() }
#ifdef RELEASE_ON_ANOTHER_CONNECTION
    :: d_step {
        request[LINK(0, me)] ?? RELEASE, token, ttl, number -> command = RELEASE; wire = LINK(0, me);
        carry_out(); forget()
       }
    :: d_step {
        request[LINK(1, me)] ?? RELEASE, token, ttl, number -> command = RELEASE; wire = LINK(1, me);
        carry_out(); forget()
       }
#endif
#if BREAKS
    :: d_step { me == 0 && len(stray) > 0 -> stray ? command, token, ttl, number; execute_stray(); forget() }
    :: d_step { me == 0 && len(stray) > 0 -> stray ? _, _, _, _ }  /* it was lost */
#endif
    :: d_step {
        owner[me] != 0 && left[me] <= DRIFT ->
        printf("SAY on server %d the key of token %d expires\n", me, owner[me]);
        owner[me] = 0; left[me] = 0
       }
    od
}

/* ---- Clients ---- */


inline release_everywhere() {
    /* On the same connections, behind the SETs, also where no answer has come yet. Where it can't be sent, the bit in
     * may_hold stays, and it is sent on the successor: a release that is pending. */
    s = 0;
    do
    :: s < SERVERS ->
        if
        :: may_hold[LINK(me, s)] & BIT(TOKEN(me)) ->
            if
#ifdef LATE_GRANT_KEPT
            :: !(votes[me] & BIT(s)) -> may_hold[LINK(me, s)] = may_hold[LINK(me, s)] & ~BIT(TOKEN(me))
            :: !is_broken(s) && votes[me] & BIT(s) -> send(LINK(me, s), RELEASE, TOKEN(me), 0, 0)
#else
            :: !is_broken(s) -> send(LINK(me, s), RELEASE, TOKEN(me), 0, 0)
#endif
#ifdef WITHOUT_PENDING_RELEASES
            :: is_broken(s) -> may_hold[LINK(me, s)] = may_hold[LINK(me, s)] & ~BIT(TOKEN(me))
#endif
            :: else
            fi
        :: else
        fi;
        s++
    :: else -> break
    od;
    given_back = given_back | BIT(TOKEN(me));
    over()
}

inline close_round(client) {
    extending[client] = false; votes[client] = 0; extended[client] = 0;
    s = 0;
    do
    :: s < SERVERS ->
        do
        :: reply[LINK(client, s)] ?? [SET, _, _] -> reply[LINK(client, s)] ?? SET, _, _
        :: reply[LINK(client, s)] ?? [EXTEND, _, _] -> reply[LINK(client, s)] ?? EXTEND, _, _
        :: else -> break
        od;
        s++
    :: else -> break
    od
}

inline over() {
    phase[me] = IDLE; round[me] = 0; valid[me] = 0; close_round(me)
}

inline hear(server) {
    /* An answer to a round that is decided counts for nothing, but for what the server may hold. */
    if
    :: command == RELEASE ->
        may_hold[LINK(me, server)] = may_hold[LINK(me, server)] & ~BIT(token)
    :: else
    fi;
    if
    :: command != RELEASE && awaited(me, token, number) ->
        votes[me] = votes[me] | BIT(server);
        if
        :: QUORUM(votes[me]) && phase[me] == ASKING ->
#ifdef COUNTED_FROM_THE_ANSWER
            valid[me] = VALIDITY(TTL);
#endif
            if
            :: valid[me] > 0 ->
                printf("SAY client %d holds the lock with token %d, for %d ticks\n", me, token, valid[me]);
                phase[me] = HOLDING; close_round(me);
                assert(!(phase[1 - me] == HOLDING && valid[1 - me] > 0))  /* no two valid leases */
            :: else ->
                printf("SAY the quorum comes too late, client %d gives token %d back\n", me, token);
                release_everywhere()
            fi
        :: QUORUM(votes[me]) && extending[me] ->
            printf("SAY client %d has extended its lease, for %d ticks\n", me, extended[me]);
            valid[me] = extended[me]; close_round(me)
        :: else
        fi
    :: else
    fi
}

inline ask() {
    attempts[me]++;
    phase[me] = ASKING; valid[me] = VALIDITY(TTL);
    printf("SAY client %d sends SET with token %d\n", me, TOKEN(me));
    s = 0;
    do
    :: s < SERVERS ->
        if
        :: !is_broken(s) ->
            may_hold[LINK(me, s)] = may_hold[LINK(me, s)] | BIT(TOKEN(me));
            send(LINK(me, s), SET, TOKEN(me), TTL, 0)
        :: else
        fi;
        s++
    :: else -> break
    od;
    s = 0
}

inline extend(ttl) {
    round[me]++; extending[me] = true; votes[me] = 0; extended[me] = VALIDITY(ttl);
#ifndef WITHOUT_THE_SHORTER_END
    if
    :: valid[me] > VALIDITY(ttl) -> valid[me] = VALIDITY(ttl)
    :: else
    fi;
#endif
    printf("SAY client %d sends an extension, for a ttl of %d\n", me, ttl);
    s = 0;
    do
    :: s < SERVERS ->
        if
        :: !is_broken(s) && may_hold[LINK(me, s)] & BIT(TOKEN(me)) ->
            send(LINK(me, s), EXTEND, TOKEN(me), ttl, round[me])
        :: else
        fi;
        s++
    :: else -> break
    od;
    s = 0
}

inline reconnect(server) {
    lost = false;
    printf("SAY client %d connects to server %d anew\n", me, server);
#ifndef WITHOUT_KILL
    send(LINK(me, server), KILL, 0, 0, 0);
#endif
    token = 1 + 2 * me;
    do
    :: token < 3 + 2 * me ->
        if
#ifdef LIVE_TOKEN_RELEASED
        :: may_hold[LINK(me, server)] & BIT(token) ->
#else
        :: may_hold[LINK(me, server)] & BIT(token) && given_back & BIT(token) ->
#endif
            send(LINK(me, server), RELEASE, token, 0, 0)
        :: else
        fi;
        token++
    :: else -> break
    od
}

inline break_connection(server) {
    breaks++;
    printf("SAY the connection of client %d to server %d breaks\n", me, server);
    lost = true;
    do
    :: request[LINK(me, server)] ? command, token, ttl, number -> stray ! command, token, ttl, number
    :: empty(request[LINK(me, server)]) -> break
    od;
    do
    :: reply[LINK(me, server)] ? _, _, _
    :: empty(reply[LINK(me, server)]) -> break
    od;
#ifdef WITHOUT_PENDING_RELEASES
    may_hold[LINK(me, server)] = may_hold[LINK(me, server)] & ~given_back;
#endif
}

#define may_extend (me == 0 && phase[me] == HOLDING && !extending[me] && round[me] < EXTENSIONS)

proctype Client(byte me) {
    do
    :: d_step { phase[me] == IDLE && attempts[me] < (me == 0 -> ATTEMPTS : 1) -> ask(); forget() }
    :: d_step { reply[LINK(me, 0)] ? command, token, number -> hear(0); forget() }
    :: d_step { reply[LINK(me, 1)] ? command, token, number -> hear(1); forget() }
    :: d_step { reply[LINK(me, 2)] ? command, token, number -> hear(2); forget() }
    :: d_step {
        phase[me] == ASKING ->
        printf("SAY client %d gives the attempt with token %d up, and releases it\n", me, TOKEN(me));
        release_everywhere(); forget()
       }
    :: d_step {
        phase[me] == HOLDING ->
        printf("SAY client %d releases token %d\n", me, TOKEN(me));
        release_everywhere(); forget()
       }
#if EXTENSIONS
    :: d_step { may_extend -> extend(TTL); forget() }
#if SHORTER != TTL
    :: d_step { may_extend -> extend(SHORTER); forget() }
#endif
    :: d_step {
        extending[me] ->
        printf("SAY client %d gives the extension up\n", me);
        close_round(me); forget()
       }
#endif
#if BREAKS
    :: d_step { me == 0 && breaks < BREAKS -> break_connection(0); forget() }
    :: d_step { me == 0 && lost -> reconnect(0); forget() }
#endif
    od
}

/* ---- Time, and what is left behind ---- */

#define down(timer) timer = (timer > 0 -> timer - 1 : 0)

inline tick(client) {
    down(valid[client]);
    down(extended[client]);
    if
    :: phase[client] == HOLDING && valid[client] == 0 ->
        /* It sends nothing: its keys expire. */
        phase[client] = IDLE; round[client] = 0; close_round(client)
    :: else
    fi
}

/* A key that has reached 0 is gone. */
inline run_down(server) {
    down(left[server]);
    owner[server] = (left[server] > 0 -> owner[server] : 0)
}

proctype Clock() {
    do
    :: d_step {
        printf("SAY a tick passes\n");
        run_down(0); run_down(1); run_down(2); tick(0); tick(1); forget()
       }
    od
}

#define CLIENT_OF(token) (((token) - 1) / 2)
#define LINK_OF(server) LINK(CLIENT_OF(owner[server]), server)
/* Nothing is under way between a token's client and the server, and the server holds it though it was given back. */
#define left_behind(server) \
    (owner[server] != 0 && given_back & BIT(owner[server]) \
     && empty(request[LINK_OF(server)]) && empty(reply[LINK_OF(server)]) \
     && !(LINK_OF(server) == BREAKS_ON && (lost || len(stray) > 0)))

proctype Nothing_is_left_behind() {
    d_step {
        left_behind(0) || left_behind(1) || left_behind(2) ->
        printf("SAY a token that was given back stays on a server\n");
        assert(false)
    }
}

init {
    atomic {
        run Server(0); run Server(1); run Server(2);
        run Client(0); run Client(1);
        run Clock();
#ifndef TOKEN_USED_AGAIN
        run Nothing_is_left_behind()
#endif
    }
}
