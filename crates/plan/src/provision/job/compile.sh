# Compiles the sources in the working directory for $KERNEL_FULL_VERSION and leaves the modules in $MODULES: as dkms.conf says,
# where there is one, else as the kernel's build system does.
headers=/lib/modules/$KERNEL_FULL_VERSION/build
if [ ! -d "$headers" ]; then
	echo "the toolkit has no $headers: name one for this kernel (build.source.toolkit)"
	exit 1
fi
mkdir -p "$MODULES"
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
bash -euc '
	kernelver=$KERNEL_FULL_VERSION
	kernel_source_dir=$headers
	arch=$(uname -m)
	dkms_tree=/work/dkms
	. ./dkms.conf
	source_tree=/work/dkms
	mkdir -p "$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION"
	ln -s "$PWD" "$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build"
	for patch in "${PATCH[@]-}"; do
		[ -z "$patch" ] || patch -p1 <"patches/$patch"
	done
	[ -z "${PRE_BUILD-}" ] || eval "./$PRE_BUILD"
	command=${MAKE[0]-${MAKE-}}
	if [ -z "$command" ]; then
		command="make -C $kernel_source_dir M=$PWD modules"
	fi
	eval "${command/#make/make KERNELRELEASE=$kernelver}"
	for index in "${!BUILT_MODULE_NAME[@]}"; do
		name=${BUILT_MODULE_NAME[$index]}
		location=${BUILT_MODULE_LOCATION[$index]-.}
		cp "./${location:-.}/$name.ko" "$MODULES/${DEST_MODULE_NAME[$index]-$name}.ko"
	done
	if [ "${#BUILT_MODULE_NAME[@]}" = 0 ]; then
		find . -name "*.ko" -exec cp {} "$MODULES/" \;
	fi
'
