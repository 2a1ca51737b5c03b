#!/bin/bash
# Runs MongoDB as a replica set of one node, which transactions need, with authentication.
# The official image's entrypoint creates the root user on an empty volume; this script
# then calls rs.initiate and creates the shop's user. It does so at every start, which
# changes nothing the second time.
set -u

# The password is in the environment, since arguments are visible to all users of the
# machine.
shell() { mongosh --quiet --nodb --eval 'db = connect(`mongodb://root:${encodeURIComponent(process.env.MONGO_INITDB_ROOT_PASSWORD)}@mongo:27017/admin?directConnection=true`)' --eval "$1"; }

setUp() {
	# The entrypoint's temporary server listens only on 127.0.0.1, so the server at
	# "mongo" is the final one.
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
	  || echo "kiosk: MongoDB was not set up: see the error above" >&2
}
setUp &

# The transaction of a killed function blocks writes to the same documents until MongoDB
# aborts it, by default after 60 s. The shop's own transactions take at most 8 s.
exec docker-entrypoint.sh mongod --bind_ip_all --replSet rs0 --keyFile /run/secrets/mongo-keyfile --wiredTigerCacheSizeGB 0.5 --setParameter transactionLifetimeLimitSeconds=10
