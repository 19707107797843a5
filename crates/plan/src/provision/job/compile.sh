# Compiles the sources in the working directory for $KERNEL and leaves the modules in $MODULES: as dkms.conf says,
# where there is one, else as the kernel's build system does.
headers=/lib/modules/$KERNEL/build
if [ ! -d "$headers" ]; then
	echo "the toolkit has no $headers: name one for this kernel (build.source.toolkit)"
	exit 1
fi
if [ ! -f dkms.conf ]; then
	if [ ! -f Makefile ] && [ ! -f Kbuild ]; then
		echo "there is neither a Makefile nor a dkms.conf in $PWD: name the directory (build.source.path), or what is to be done (build.source.script)"
		exit 1
	fi
	make -C "$headers" M="$PWD" -j"$(nproc)" modules
	find . -name '*.ko' -exec cp {} "$MODULES/" \;
	# What modules of other images are compiled against.
	[ ! -f Module.symvers ] || cp Module.symvers "$MODULES/"
	exit 0
fi
# As dkms(8) reads it: in bash, with these variables, the sources being where its tree has them.
export headers
bash -c '
	kernelver=$KERNEL
	kernel_source_dir=$headers
	arch=$(uname -m)
	dkms_tree=/work/dkms
	source_tree=/work/dkms/src
	# dkms itself minds neither a false condition nor a variable without a value.
	. ./dkms.conf
	set -e
	mkdir -p "$source_tree" "$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION"
	ln -sfn "$PWD" "$source_tree/$PACKAGE_NAME-$PACKAGE_VERSION"
	ln -sfn "$PWD" "$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build"
	for patch in "${PATCH[@]}"; do
		patch -p1 <"patches/$patch"
	done
	[ -z "$PRE_BUILD" ] || eval "./$PRE_BUILD"
	command=${MAKE[0]}
	if [ -z "$command" ]; then
		command="make -C $kernel_source_dir M=$PWD modules"
	fi
	eval "${command/#make/make KERNELRELEASE=$kernelver}"
	for index in "${!BUILT_MODULE_NAME[@]}"; do
		name=${BUILT_MODULE_NAME[$index]}
		cp "./${BUILT_MODULE_LOCATION[$index]:-.}/$name.ko" "$MODULES/${DEST_MODULE_NAME[$index]:-$name}.ko"
	done
	[ ! -f Module.symvers ] || cp Module.symvers "$MODULES/"
	if [ "${#BUILT_MODULE_NAME[@]}" = 0 ]; then
		find . -name "*.ko" -exec cp {} "$MODULES/" \;
	fi
'
