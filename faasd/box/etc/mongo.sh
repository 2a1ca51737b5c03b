#!/bin/bash
# Runs MongoDB as a replica set of one node with authentication: transactions
# need a replica set. The official image's own entrypoint makes the root user
# on an empty volume; this adds what comes after: rs.initiate and the shop's
# user. All of it is done again at every start, and changes nothing then.
set -u

# The password comes from the environment: arguments can be read by everybody who
# lists the processes.
shell() { mongosh --quiet --nodb --eval 'db = connect(`mongodb://root:${encodeURIComponent(process.env.MONGO_INITDB_ROOT_PASSWORD)}@mongo:27017/admin?directConnection=true`)' --eval "$1"; }

setUp() {
	# The entrypoint's first server listens on 127.0.0.1 only, so whoever
	# answers as "mongo" is the real one.
	until shell 'db.adminCommand("ping")' >/dev/null 2>&1; do sleep 1; done
	shell '
		try { db.adminCommand({replSetGetStatus: 1}) } catch (e) {
			if (e.codeName !== "NotYetInitialized") throw e
			db.adminCommand({replSetInitiate: {_id: "rs0", members: [{_id: 0, host: "mongo:27017"}]}})
		}
		while (!db.hello().isWritablePrimary) sleep(200)
		const shop = {pwd: process.env.KIOSK_MONGO_PASSWORD, roles: [{role: "readWrite", db: "kiosk"}]}
		if (db.getUser("kiosk")) db.updateUser("kiosk", shop)
		else db.createUser({user: "kiosk", ...shop})
	' && echo "kiosk: the replica set rs0 and the user kiosk are ready" \
	  || echo "kiosk: MongoDB was not set up; the reason stands above" >&2
}
setUp &

# What the transaction of a function that died has written, nobody else can write
# until MongoDB aborts it: by itself after 60 s. The shop's own last 8 s at most.
exec docker-entrypoint.sh mongod --bind_ip_all --replSet rs0 --keyFile /run/secrets/mongo-keyfile --wiredTigerCacheSizeGB 0.5 --setParameter transactionLifetimeLimitSeconds=10
