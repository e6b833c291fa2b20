-- Format 1 of the PostgreSQL store: its tables, and the functions that change them. One call of a
-- function is one transaction: nothing is ever left open while a bus is slow, stopped or gone.

-- Who takes messages: one row a process, alive until `until` on this server's clock.
CREATE TABLE holder (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    since timestamptz NOT NULL,  -- alive without a gap
    until timestamptz NOT NULL
);

-- Changed only when a message moves. Larger contents lie apart by themselves (TOAST), and are
-- compressed by nobody.
CREATE TABLE message (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text NOT NULL,
    due double precision NOT NULL,
    since double precision NOT NULL,  -- when its waiting began
    attempts integer NOT NULL,
    stored double precision NOT NULL,
    failure bytea,
    crashes integer NOT NULL DEFAULT 0,
    priority integer NOT NULL,
    expires double precision NOT NULL,
    grp text NOT NULL,
    blocked boolean NOT NULL,  -- one of its group comes before it
    id text NOT NULL,
    business_key text NOT NULL,
    digest bytea NOT NULL,
    content bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE message ALTER content SET STORAGE EXTERNAL;
CREATE INDEX message_by_turn ON message (channel, blocked, priority, due, key);
CREATE INDEX message_by_group ON message (channel, grp, blocked, key) WHERE grp <> '';
CREATE INDEX message_by_expiry ON message (expires) WHERE expires > 0;
CREATE INDEX message_by_wait ON message (since) WHERE due > 0;
CREATE INDEX message_by_id ON message (left(id, 500));
CREATE INDEX message_by_business_key ON message (left(business_key, 500))
    WHERE business_key <> '';

-- Messages in somebody's hand. Apart, so that taking one rewrites no index of what waits.
CREATE TABLE hold (
    key bigint PRIMARY KEY,
    number bigint NOT NULL,  -- of the take
    owner integer NOT NULL,
    channel text NOT NULL,
    suspect boolean NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX hold_by_number ON hold (number);
CREATE INDEX hold_by_owner ON hold (owner, suspect);
CREATE INDEX hold_by_channel ON hold (channel);

CREATE TABLE receipt (
    id text NOT NULL,
    route text NOT NULL,
    outcome text NOT NULL,
    business_key text NOT NULL,
    principal text NOT NULL,
    finished double precision NOT NULL
);
CREATE INDEX receipt_by_id ON receipt (left(id, 500));
CREATE INDEX receipt_by_business_key ON receipt (left(business_key, 500))
    WHERE business_key <> '';
CREATE INDEX receipt_by_age ON receipt (finished);

-- EIP: Idempotent Receiver.
CREATE TABLE claim (
    scope text NOT NULL,
    value text NOT NULL,
    until double precision NOT NULL,
    state text NOT NULL CHECK (state IN ('free', 'claimed', 'confirmed')),
    crashes integer NOT NULL,
    owner integer NOT NULL,
    number bigint NOT NULL,
    digest bytea,
    answer bytea,
    PRIMARY KEY (scope, value)
);
CREATE INDEX claim_by_owner ON claim (owner, number) WHERE state = 'claimed';
CREATE INDEX claim_by_age ON claim (until);

CREATE TABLE subscription (
    topic text NOT NULL,
    name text NOT NULL,
    channel text NOT NULL,
    PRIMARY KEY (topic, name)
);

-- Commits that were made, for those who lost the answer (see `made`), and for a while only.
CREATE TABLE unit (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    keys bigint[],
    rung text[]
);
CREATE INDEX unit_by_age ON unit (at);

-- How much lies where. Each connection counts in rows of its own, so that none waits for another.
CREATE TABLE tally (
    backend integer NOT NULL,
    channel text NOT NULL,
    messages bigint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (backend, channel)
) WITH (fillfactor = 50);

CREATE TYPE put AS (
    channel text, due double precision, attempts integer, failure bytea, priority integer,
    expires double precision, grp text, id text, business_key text, digest bytea, content bytea
);
CREATE TYPE settle AS (  -- goes_to is null: it is forgotten
    key bigint, hold bigint, lying_in text, goes_to text, due double precision, attempts integer,
    failure bytea
);
CREATE TYPE confirm AS (
    scope text, value text, until double precision, digest bytea, answer bytea
);
CREATE TYPE release AS (scope text, value text, done boolean);
CREATE TYPE place AS (channel text, grp text);

-- What callers see of a message.
CREATE VIEW lying AS
SELECT m.key, m.channel, m.due, m.attempts, m.stored, m.failure,
       coalesce(h.number, 0) AS hold, m.crashes, m.priority, m.expires, m.grp, m.digest, m.content
FROM message m LEFT JOIN hold h ON h.key = m.key;


CREATE FUNCTION count_messages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO tally AS t
        SELECT pg_backend_pid(), channel, count(*), sum(octet_length(content) + 512)
        FROM those_now GROUP BY channel
        ON CONFLICT (backend, channel) DO UPDATE
        SET messages = t.messages + excluded.messages, bytes = t.bytes + excluded.bytes;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO tally AS t
        SELECT pg_backend_pid(), channel, -count(*), -sum(octet_length(content) + 512)
        FROM those_before GROUP BY channel
        ON CONFLICT (backend, channel) DO UPDATE
        SET messages = t.messages + excluded.messages, bytes = t.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER message_came AFTER INSERT ON message REFERENCING NEW TABLE AS those_now
    FOR EACH STATEMENT EXECUTE FUNCTION count_messages();
CREATE TRIGGER message_gone AFTER DELETE ON message REFERENCING OLD TABLE AS those_before
    FOR EACH STATEMENT EXECUTE FUNCTION count_messages();
CREATE TRIGGER message_moved AFTER UPDATE ON message
    REFERENCING OLD TABLE AS those_before NEW TABLE AS those_now
    FOR EACH STATEMENT EXECUTE FUNCTION count_messages();


-- All changes of some units of work, or none (see esb/durable.py).
--
-- Raises ESB01 when a message or a claim is not what a change took it to be. keys: of what was put,
-- in order. rung: channels where something may be due that the caller cannot know of.
CREATE FUNCTION make(
    _me integer, _unit uuid, _now double precision, _puts put[], _published put[],
    _settled settle[], _receipts receipt[], _confirmed confirm[], _released release[],
    OUT keys bigint[], OUT rung text[]
) LANGUAGE plpgsql AS $$
DECLARE
    touched place[];
    left_behind place[];
    forgotten integer := 0;
    moved integer := 0;
    held integer;
BEGIN
    -- Who changes a group locks it: else one could come in behind a message that just leaves, and
    -- wait for it for ever.
    SELECT array_agg(DISTINCT (g.channel, g.grp)::place) INTO touched FROM (
        SELECT p.channel, p.grp FROM unnest(_puts) p
        UNION ALL
        SELECT s.channel, p.grp FROM unnest(_published) p JOIN subscription s ON s.topic = p.channel
        UNION ALL
        SELECT unnest(ARRAY[m.channel, s.goes_to]), m.grp
        FROM unnest(_settled) s JOIN message m ON m.key = s.key
    ) g WHERE g.grp <> '' AND g.channel IS NOT NULL;
    IF touched IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(h.lock) FROM (
            SELECT DISTINCT hashtextextended(t.channel || E'\n' || t.grp, 0) AS lock
            FROM unnest(touched) t ORDER BY lock
        ) h;
    END IF;

    IF cardinality(_settled) > 0 THEN
        WITH gone AS (
            DELETE FROM hold h USING unnest(_settled) s
            WHERE h.key = s.key AND (s.hold = 0 OR h.number = s.hold) RETURNING s.hold
        ) SELECT count(*) FILTER (WHERE gone.hold <> 0) INTO held FROM gone;
        IF held <> (SELECT count(*) FROM unnest(_settled) s WHERE s.hold <> 0) THEN
            RAISE EXCEPTION USING ERRCODE = 'ESB01',
                MESSAGE = 'a message is not in that hand any more';
        END IF;
        WITH gone AS (
            DELETE FROM message m USING unnest(_settled) s
            WHERE m.key = s.key AND s.goes_to IS NULL AND s.lying_in IN ('', m.channel)
            RETURNING m.channel, m.grp
        )
        SELECT count(*), array_agg((gone.channel, gone.grp)::place) FILTER (WHERE gone.grp <> '')
        INTO forgotten, left_behind FROM gone;
        IF forgotten < cardinality(_settled) THEN
            WITH was AS (
                SELECT m.key, m.channel, m.grp, s.goes_to, s.due, s.attempts, s.failure
                FROM unnest(_settled) s JOIN message m ON m.key = s.key
                WHERE s.goes_to IS NOT NULL AND s.lying_in IN ('', m.channel)
                ORDER BY m.key FOR UPDATE OF m
            ), now AS (
                UPDATE message m SET
                    channel = was.goes_to,
                    due = was.due,
                    since = _now,
                    attempts = was.attempts,
                    failure = was.failure,
                    crashes = 0,
                    priority = CASE WHEN was.channel = was.goes_to THEN m.priority ELSE 0 END,
                    expires = CASE WHEN was.channel = was.goes_to THEN m.expires ELSE 0 END,
                    -- Nobody takes dead letters in their turn: one hides no other of its group.
                    blocked = m.grp <> '' AND was.goes_to <> 'dead'
                        AND (m.blocked OR was.channel <> was.goes_to)
                FROM was WHERE m.key = was.key
                RETURNING was.channel, m.grp
            )
            SELECT count(*),
                   left_behind || array_agg((now.channel, now.grp)::place)
                       FILTER (WHERE now.grp <> '')
            INTO moved, left_behind FROM now;
        END IF;
        IF forgotten + moved <> cardinality(_settled) THEN
            RAISE EXCEPTION USING ERRCODE = 'ESB01', MESSAGE = 'a message is not there any more';
        END IF;
        IF NOT coalesce(left_behind, '{}') <@ coalesce(touched, '{}') THEN
            RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'a message was moved meanwhile';
        END IF;
    END IF;

    IF cardinality(_puts) > 0 THEN
        WITH new AS (
            INSERT INTO message (channel, due, since, attempts, stored, failure, priority, expires,
                                 grp, blocked, id, business_key, digest, content)
            SELECT p.channel, p.due, _now, p.attempts, _now, p.failure, p.priority, p.expires, p.grp,
                   p.grp <> '', p.id, p.business_key, p.digest, p.content
            FROM unnest(_puts) WITH ORDINALITY p ORDER BY p.ordinality
            RETURNING key
        ) SELECT array_agg(new.key ORDER BY new.key) INTO keys FROM new;
    END IF;
    IF cardinality(_published) > 0 THEN
        WITH new AS (
            INSERT INTO message (channel, due, since, attempts, stored, failure, priority, expires,
                                 grp, blocked, id, business_key, digest, content)
            SELECT s.channel, p.due, _now, 0, _now, NULL, p.priority, p.expires, p.grp,
                   p.grp <> '', p.id, p.business_key, p.digest, p.content
            FROM unnest(_published) WITH ORDINALITY p JOIN subscription s ON s.topic = p.channel
            ORDER BY p.ordinality, s.name
            RETURNING channel
        ) SELECT array_agg(DISTINCT new.channel) INTO rung FROM new;
    END IF;

    -- Whatever came, went or moved: of each group the first is free, unless one is already.
    IF touched IS NOT NULL THEN
        UPDATE message SET blocked = false WHERE key IN (
            SELECT (SELECT min(m.key) FROM message m
                    WHERE m.channel = t.channel AND m.grp = t.grp AND m.grp <> '' AND m.blocked)
            FROM unnest(touched) t
            WHERE NOT EXISTS (
                SELECT FROM message m
                WHERE m.channel = t.channel AND m.grp = t.grp AND m.grp <> '' AND NOT m.blocked
            )
        );
        rung := rung || ARRAY(SELECT DISTINCT t.channel FROM unnest(touched) t);
    END IF;

    IF cardinality(_receipts) > 0 THEN
        INSERT INTO receipt SELECT * FROM unnest(_receipts);
    END IF;
    IF cardinality(_confirmed) > 0 THEN
        INSERT INTO claim AS c
        SELECT r.scope, r.value, r.until, 'confirmed', 0, 0, 0, r.digest, r.answer
        FROM unnest(_confirmed) r
        ON CONFLICT (scope, value) DO UPDATE SET
            until = excluded.until, state = 'confirmed', crashes = 0, owner = 0, number = 0,
            digest = excluded.digest, answer = excluded.answer
        WHERE c.state = 'claimed' AND c.owner = _me;
        GET DIAGNOSTICS held = ROW_COUNT;
        IF held <> cardinality(_confirmed) THEN
            RAISE EXCEPTION USING ERRCODE = 'ESB01', MESSAGE = 'a claim is somebody else''s by now';
        END IF;
    END IF;
    IF cardinality(_released) > 0 THEN
        DELETE FROM claim c USING unnest(_released) r
        WHERE c.scope = r.scope AND c.value = r.value
          AND (c.state = 'claimed' AND c.owner = _me OR c.state = 'confirmed' AND r.done);
    END IF;

    INSERT INTO unit (id, keys, rung) VALUES (_unit, make.keys, make.rung);
END $$;


-- Whether a unit was made; from now on it was or never will be. One that is still being made is
-- waited for, and one that this server has yet to read from its socket will find its place taken.
CREATE FUNCTION made(_unit uuid, OUT happened boolean, OUT keys bigint[], OUT rung text[])
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO unit (id) VALUES (_unit) ON CONFLICT (id) DO NOTHING;
    happened := NOT FOUND;
    IF happened THEN
        SELECT u.keys, u.rung INTO made.keys, made.rung FROM unit u WHERE u.id = _unit;
    END IF;
END $$;


-- That a holder is alive; raises ESB02 if it was taken for dead.
CREATE FUNCTION assert_alive(_me integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM holder WHERE id = _me FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'ESB02', MESSAGE = 'this process was taken for dead';
    END IF;
END $$;


-- Due messages of a channel by priority, then those put off before, then by age; in the hand of the
-- take `_number` from now on. A row of nulls alone: there may be some, but not now.
--
-- _suspect: with so many crashes a message is taken alone by its process, and in order nothing is
-- taken beside anything. Not worth an fsync: should a crash of the server forget it, the message is
-- taken again, and the commit of the first taker is refused.
CREATE FUNCTION take(
    _me integer, _number bigint, _channel text, _most integer, _in_order boolean, _suspect integer,
    _now double precision
) RETURNS SETOF lying LANGUAGE plpgsql AS $$
DECLARE
    taken bigint[] := '{}';
    found bigint[];
    suspects boolean[];
    first_suspect integer;
    level bigint := 2147483648;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM assert_alive(_me);
    IF _in_order THEN
        PERFORM pg_advisory_xact_lock(1, hashtext(_channel));
    ELSE
        PERFORM pg_advisory_xact_lock_shared(1, hashtext(_channel));
    END IF;
    IF (_in_order AND EXISTS (SELECT FROM hold WHERE channel = _channel))
        OR EXISTS (SELECT FROM hold WHERE owner = _me AND suspect)
    THEN
        RETURN NEXT NULL;
        RETURN;
    END IF;

    <<levels>>
    LOOP
        SELECT max(m.priority) INTO level FROM message m
        WHERE m.channel = _channel AND NOT m.blocked AND m.priority < level;
        EXIT WHEN level IS NULL;
        FOR turn IN 1..2 LOOP
            IF turn = 1 THEN
                SELECT array_agg(c.key), array_agg(c.crashes >= _suspect) INTO found, suspects
                FROM (
                    SELECT m.key, m.crashes FROM message m
                    WHERE m.channel = _channel AND NOT m.blocked AND m.priority = level
                        AND m.due > 0 AND m.due <= _now
                        AND NOT EXISTS (SELECT FROM hold h WHERE h.key = m.key)
                    ORDER BY m.due, m.key LIMIT _most - cardinality(taken)
                    FOR UPDATE SKIP LOCKED
                ) c;
            ELSE
                SELECT array_agg(c.key), array_agg(c.crashes >= _suspect) INTO found, suspects
                FROM (
                    SELECT m.key, m.crashes FROM message m
                    WHERE m.channel = _channel AND NOT m.blocked AND m.priority = level
                        AND m.due = 0
                        AND NOT EXISTS (SELECT FROM hold h WHERE h.key = m.key)
                    ORDER BY m.key LIMIT _most - cardinality(taken)
                    FOR UPDATE SKIP LOCKED
                ) c;
            END IF;
            first_suspect := array_position(suspects, true);
            IF first_suspect = 1 AND taken = '{}' THEN
                IF EXISTS (SELECT FROM hold WHERE owner = _me) THEN
                    RETURN NEXT NULL;
                    RETURN;
                END IF;
                taken := found[1:1];
            ELSE
                taken := taken || found[1:coalesce(first_suspect - 1, cardinality(found))];
            END IF;
            EXIT levels WHEN first_suspect IS NOT NULL OR cardinality(taken) >= _most;
        END LOOP;
    END LOOP;

    RETURN QUERY SELECT * FROM seize(_me, _number, _suspect, taken);
END $$;


-- Messages by their keys, if they are in nobody's hand.
CREATE FUNCTION seize(_me integer, _number bigint, _suspect integer, _keys bigint[])
RETURNS SETOF lying LANGUAGE plpgsql AS $$
BEGIN
    PERFORM assert_alive(_me);
    INSERT INTO hold
    SELECT m.key, _number, _me, m.channel, m.crashes >= _suspect FROM message m
    WHERE m.key = ANY (_keys)
    ON CONFLICT DO NOTHING;
    RETURN QUERY
    SELECT l.* FROM unnest(_keys) WITH ORDINALITY k (key, turn) JOIN lying l ON l.key = k.key
    WHERE l.hold = _number ORDER BY k.turn;
END $$;


-- What takes and claims of these numbers have is free again. Returns the channels.
CREATE FUNCTION give_back(_me integer, _numbers bigint[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    channels text[];
BEGIN
    WITH gone AS (DELETE FROM hold WHERE number = ANY (_numbers) RETURNING channel)
    SELECT array_agg(DISTINCT gone.channel) INTO channels FROM gone;
    UPDATE claim SET state = 'free'
    WHERE owner = _me AND number = ANY (_numbers) AND state = 'claimed';
    RETURN coalesce(channels, '{}');
END $$;


-- When the next message of a channel that nobody has is due (0: it is); null if there is none.
CREATE FUNCTION next_due(_channel text) RETURNS double precision LANGUAGE plpgsql AS $$
DECLARE
    level bigint := 2147483648;
    soonest double precision;
    due_here double precision;
BEGIN
    LOOP
        SELECT max(m.priority) INTO level FROM message m
        WHERE m.channel = _channel AND NOT m.blocked AND m.priority < level;
        EXIT WHEN level IS NULL OR soonest = 0;
        SELECT m.due INTO due_here FROM message m
        WHERE m.channel = _channel AND NOT m.blocked AND m.priority = level
            AND NOT EXISTS (SELECT FROM hold h WHERE h.key = m.key)
        ORDER BY m.due LIMIT 1;
        soonest := least(soonest, due_here);
    END LOOP;
    RETURN soonest;
END $$;


-- The right to do what a value names (see Claim in esb/durable.py).
CREATE FUNCTION claim(
    _me integer, _number bigint, _scope text, _value text, _until double precision,
    _now double precision, OUT answer_state text, OUT crashes integer, OUT digest bytea,
    OUT answer bytea
) LANGUAGE plpgsql AS $$
DECLARE
    c claim;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM assert_alive(_me);
    LOOP
        INSERT INTO claim VALUES (_scope, _value, _until, 'claimed', 0, _me, _number)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            answer_state := 'new';
            crashes := 0;
            RETURN;
        END IF;
        SELECT * INTO c FROM claim l WHERE l.scope = _scope AND l.value = _value FOR UPDATE;
        EXIT WHEN FOUND;  -- else it was released in between
    END LOOP;
    crashes := CASE c.state WHEN 'confirmed' THEN 0 ELSE c.crashes END;
    IF c.state = 'claimed' THEN
        answer_state := 'busy';
    ELSIF c.state = 'confirmed' AND c.until > _now THEN
        answer_state := 'done';
        digest := c.digest;
        answer := c.answer;
    ELSE
        answer_state := 'new';
        UPDATE claim l SET
            state = 'claimed', until = _until, crashes = claim.crashes, owner = _me,
            number = _number, digest = NULL, answer = NULL
        WHERE l.scope = _scope AND l.value = _value;
    END IF;
END $$;


-- What a process had in hand, or was doing, when it ended is free, and counted. Returns channels.
CREATE FUNCTION bury(_dead integer) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    channels text[];
BEGIN
    WITH gone AS (
        DELETE FROM hold WHERE owner = _dead RETURNING key, channel
    ), counted AS (
        UPDATE message m SET crashes = m.crashes + 1 FROM gone WHERE m.key = gone.key
    ) SELECT array_agg(DISTINCT gone.channel) INTO channels FROM gone;
    UPDATE claim SET state = 'free', crashes = crashes + 1 WHERE owner = _dead AND state = 'claimed';
    DELETE FROM holder WHERE id = _dead;
    RETURN coalesce(channels, '{}');
END $$;


-- How many bytes messages take up.
CREATE FUNCTION used() RETURNS bigint LANGUAGE sql AS $$
    SELECT coalesce(sum(bytes), 0)::bigint FROM tally
$$;


-- A process says that it is alive, and learns what it needs to know.
--
-- It takes others for dead only when it was alive without a gap for as long as they were not heard
-- of, and the server too: after an outage everybody is late.
CREATE FUNCTION beat(
    _me integer, _lease double precision, _now double precision, _waiting text[],
    OUT alive boolean, OUT others integer, OUT buried integer, OUT rung text[], OUT used bigint
) LANGUAGE plpgsql AS $$
DECLARE
    lease interval := make_interval(secs => _lease);
    at timestamptz := clock_timestamp();
    dead integer;
    sure boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE holder SET since = CASE WHEN until < at THEN at ELSE since END, until = at + lease
    WHERE id = _me RETURNING since + lease < at INTO sure;
    alive := FOUND;
    buried := 0;
    rung := '{}';
    IF sure AND pg_postmaster_start_time() + lease < at THEN
        FOR dead IN
            SELECT id FROM holder WHERE until < at AND id <> _me FOR UPDATE SKIP LOCKED
        LOOP
            rung := rung || bury(dead);
            buried := buried + 1;
        END LOOP;
    END IF;
    -- Where a wait began in the future, a clock was set back: as long is waited from now on.
    WITH waiting AS (
        UPDATE message SET due = _now + due - since, since = _now
        WHERE due > 0 AND since > _now + 5 RETURNING channel
    ) SELECT rung || coalesce(array_agg(DISTINCT w.channel), '{}') INTO rung FROM waiting w;
    SELECT count(*) INTO others FROM holder WHERE id <> _me;
    used := used();
    rung := rung || ARRAY(SELECT w FROM unnest(_waiting) w WHERE next_due(w) <= _now);
END $$;


-- Forgets what is over, some of each, and adds up what ended connections have counted. Returns how
-- many there were.
CREATE FUNCTION tidy(_now double precision, _receipts_until double precision) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    gone bigint := 0;
    more bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(2, 0) THEN
        RETURN 0;  -- another process is at it
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM claim WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM claim WHERE until <= _now AND state <> 'claimed'
        ORDER BY until LIMIT 1000 FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS more = ROW_COUNT;
    gone := gone + more;
    DELETE FROM receipt WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM receipt WHERE finished <= _receipts_until
        ORDER BY finished LIMIT 1000 FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS more = ROW_COUNT;
    gone := gone + more;
    DELETE FROM unit WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM unit WHERE at < now() - interval '10 minutes'
        ORDER BY at LIMIT 10000 FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS more = ROW_COUNT;
    gone := gone + more;
    WITH ended AS (
        DELETE FROM tally t
        WHERE t.backend <> 0
            AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = t.backend)
        RETURNING t.channel, t.messages, t.bytes
    )
    INSERT INTO tally AS t
    SELECT 0, e.channel, sum(e.messages), sum(e.bytes) FROM ended e
    GROUP BY e.channel ORDER BY e.channel
    ON CONFLICT (backend, channel) DO UPDATE
    SET messages = t.messages + excluded.messages, bytes = t.bytes + excluded.bytes;
    RETURN gone;
END $$;
