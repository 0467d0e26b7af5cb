# Appends to a log, and says so afterwards.
i=0
while [ "$i" -lt "$1" ]; do
    i=$((i + 1))
    echo "$i" >> log || exit 1
    echo "saved $i" || exit 1
done
