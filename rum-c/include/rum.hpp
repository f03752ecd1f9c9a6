// RUM for modern C++ (17 or newer): far memory in the containers of the standard library.
//
//     rum_init(nullptr);
//     std::vector<double, rum::allocator<double>> samples(1'000'000'000);
//
// The grid must be joined (rum_init) before the first element is allocated, and left (rum_end), if at all, after
// the last container is gone.
#ifndef RUM_HPP
#define RUM_HPP

#include <cerrno>
#include <cstddef>
#include <limits>
#include <new>
#include <type_traits>
#if __has_include(<memory_resource>)
#include <memory_resource>
#endif

#include "rum.h"

namespace rum {

namespace detail {
// As operator new does: std::bad_alloc when there is no far memory, or no grid.
inline void *allocate(std::size_t bytes, std::size_t alignment) {
    void *pointer = alignment <= 16 ? rum_c_alloc(bytes) : rum_c_aligned_alloc(alignment, bytes);
    if (pointer == nullptr)
        throw std::bad_alloc();
    return pointer;
}
} // namespace detail

// An allocator for containers whose elements lie in far memory. All allocators are equal.
template <class T> class allocator {
  public:
    using value_type = T;
    using is_always_equal = std::true_type;
    using propagate_on_container_move_assignment = std::true_type;

    constexpr allocator() noexcept = default;
    template <class U> constexpr allocator(const allocator<U> &) noexcept {}

    [[nodiscard]] T *allocate(std::size_t count) {
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T))
            throw std::bad_array_new_length();
        return static_cast<T *>(detail::allocate(count * sizeof(T), alignof(T)));
    }
    void deallocate(T *pointer, std::size_t) noexcept { rum_c_free(pointer); }
};

template <class T, class U> constexpr bool operator==(const allocator<T> &, const allocator<U> &) noexcept { return true; }
template <class T, class U> constexpr bool operator!=(const allocator<T> &, const allocator<U> &) noexcept { return false; }

#ifdef __cpp_lib_memory_resource
// Far memory for std::pmr containers. All resources of this class are equal; get_resource() is one for everybody.
class memory_resource : public std::pmr::memory_resource {
    void *do_allocate(std::size_t bytes, std::size_t alignment) override { return detail::allocate(bytes, alignment); }
    void do_deallocate(void *pointer, std::size_t, std::size_t) override { rum_c_free(pointer); }
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override {
        return dynamic_cast<const memory_resource *>(&other) != nullptr;
    }
};

inline memory_resource *get_resource() noexcept {
    static memory_resource *const resource = new memory_resource; // never destroyed: static containers may outlast it
    return resource;
}
#endif

} // namespace rum

#endif
