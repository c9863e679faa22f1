/* The few functions of CUDA's driver and of NVIDIA's management library that gpus.py calls, with their real ABI.

   FAKE_GPUS lists the GPUs in CUDA's order as id:MiB, ids of one byte; a slice (MIG) has an id above 127, and one that
   the management library will not tell of has no MiB. The library knows them by their ids only. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ids[16], mebibytes[16], count;

static void read_gpus(void) {
    const char *text = getenv("FAKE_GPUS");
    for (count = 0; text && *text; count++) {
        mebibytes[count] = -1;
        sscanf(text, "%d:%d", &ids[count], &mebibytes[count]);
        text = strchr(text, ' ');
        text += text ? 1 : 0;
        if (!text) { count++; break; }
    }
}

int cuInit(unsigned flags) { read_gpus(); return count ? flags : 100; } /* CUDA_ERROR_NO_DEVICE */
int cuDeviceGetCount(int *found) { *found = count; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 1000; return 0; } /* a handle, and no ordinal */
int cuDeviceGetUuid_v2(char *uuid, int device) {
    memset(uuid, 0xab, 16);
    uuid[15] = (char)ids[device - 1000];
    return 0;
}

struct memory { unsigned long long total, free, used; };

int nvmlInit_v2(void) { read_gpus(); return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    for (int i = 0; i < count; i++) {
        char known[64];
        snprintf(known, sizeof known, "%s-abababab-abab-abab-abab-ababababab%02x", ids[i] > 127 ? "MIG" : "GPU", ids[i]);
        if (strcmp(known, uuid) == 0) { *handle = &mebibytes[i]; return 0; }
    }
    return 6; /* NVML_ERROR_NOT_FOUND */
}
int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory) {
    int free_mebibytes = *(int *)handle;
    if (free_mebibytes < 0) return 3; /* NVML_ERROR_NOT_SUPPORTED */
    memory->total = 80ull << 30;
    memory->free = (unsigned long long)free_mebibytes << 20;
    memory->used = memory->total - memory->free;
    return 0;
}
