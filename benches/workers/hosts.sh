#!/bin/sh
# Runs N workers as if on two machines: two network namespaces with a link between them, and no other way to talk.
#
#   benches/workers/hosts.sh N PROGRAM ARGUMENT…
#
# Wants root, iproute2 and Open MPI.
set -eu
n=$1
shift
one=cw$$a two=cw$$b
desk=$(mktemp -d)
trap 'ip netns del "$one" 2>/dev/null || :; ip netns del "$two" 2>/dev/null || :; rm -rf "$desk"' EXIT

ip netns add "$one"
ip netns add "$two"
ip link add wire netns "$one" type veth peer name wire netns "$two"
ip -n "$one" addr add 10.77.0.1/24 dev wire
ip -n "$two" addr add 10.77.0.2/24 dev wire
for host in "$one" "$two"; do
    ip -n "$host" link set lo up
    ip -n "$host" link set wire up
done

# What ssh does elsewhere: a command on the machine of that address.
cat > "$desk/agent" <<END
#!/bin/sh
host=\$1
shift
case \$host in
10.77.0.1) host=$one ;;
10.77.0.2) host=$two ;;
esac
exec ip netns exec \$host unshare --uts sh -c "hostname \$host; \$*"
END
chmod +x "$desk/agent"

slots=$(((n + 1) / 2))
# Processors are told apart by nothing here: none is bound to one.
ip netns exec "$one" unshare --uts sh -c 'hostname "$0"; exec "$@"' "$one" mpirun --allow-run-as-root \
    --mca plm_rsh_agent "$desk/agent" --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 \
    --mca oob_tcp_if_include 10.77.0.0/24 --bind-to none -x RAYON_NUM_THREADS \
    --host "10.77.0.1:$slots,10.77.0.2:$slots" --map-by node -n "$n" "$@"
